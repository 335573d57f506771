"""Training and evaluation, each a function and a command ``python -m models.training.NAME``."""
