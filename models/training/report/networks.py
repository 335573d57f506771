"""The networks that the page tells of, and their twins' names."""

from __future__ import annotations

from collections.abc import Iterable

STREAMING = ("edge-s", "edge-l")
EVENTS = (*STREAMING, "paper-deeplab", "paper-fcn")
FRAMES = ("paper-deeplab-voc",)
NETWORKS = EVENTS + FRAMES
CONVERTED = ("paper-deeplab", "paper-fcn", "edge-s")

TWIN_SUFFIX = "-ann"


def twin_name(name: str) -> str:
    """Name of a network's ANN twin."""
    return f"{name}{TWIN_SUFFIX}"


def with_twins(names: Iterable[str]) -> list[str]:
    """Names of networks, each followed by its twin's."""
    return [each for name in names for each in (name, twin_name(name))]
