"""The six driving classes of DDD17 and their colours.

Classes and their order follow Ev-SegNet (Alonso and Murillo, CVPRW 2019); colours are those of Cityscapes.
"""

from __future__ import annotations

from dataclasses import dataclass

UNLABELLED = 255
"""Class id of pixels that carry no label (as in Ev-SegNet and ROS ``vision_msgs/LabelInfo``)."""


@dataclass(frozen=True, slots=True)
class SegmentationClass:
    """A class id, its name, and the RGB colour it is drawn in."""

    id: int
    name: str
    color: tuple[int, int, int]


DDD17_CLASSES: tuple[SegmentationClass, ...] = (
    SegmentationClass(0, "flat", (128, 64, 128)),
    SegmentationClass(1, "construction+sky", (70, 70, 70)),
    SegmentationClass(2, "object", (220, 220, 0)),
    SegmentationClass(3, "nature", (107, 142, 35)),
    SegmentationClass(4, "human", (220, 20, 60)),
    SegmentationClass(5, "vehicle", (0, 0, 142)),
)
