"""Loaders, one data set each, of the real on-disk layouts under one root, ``SPIKESEG_DATA``."""
