"""What every bridge offers: labels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from clients.results import Result
from clients.vehicle.watch import Status
from models.classes import SegmentationClass


class LabelPublisher(Protocol):
    """Tells a vehicle what is seen."""

    def announce(self, classes: Sequence[SegmentationClass], unlabelled: int) -> None:
        """Say what the labels mean; who comes later is told too."""

    def publish(self, result: Result) -> None:
        """Give out one mask, stamped with the end of its window by the sensor's clock."""

    def report(self, status: Status) -> None:
        """Say how the segmentation is doing; called from another thread than the rest."""

    def close(self) -> None:
        """Leave the network."""
