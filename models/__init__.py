"""Spiking segmentation networks: architectures, the stateful runtime, training, and trained weights.

Nothing here knows of HTTP. Importing this package alone does not import torch.
"""
