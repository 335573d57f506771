"""Measurements run by hand, each a command ``python -m benchmarks.NAME``; their output is kept as JSON in ``docs/``."""
