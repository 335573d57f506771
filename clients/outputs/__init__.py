"""Where results go: folders of masks, video, MCAP, the Rerun viewer, and a report in words."""

from clients.outputs.masks import MaskFolder
from clients.outputs.mcap import McapRecording
from clients.outputs.output import Output, WindowEvents, WindowFrames
from clients.outputs.report import Report
from clients.outputs.rerun import RerunRecording
from clients.outputs.video import OverlayVideo

__all__ = [
    "MaskFolder",
    "McapRecording",
    "Output",
    "OverlayVideo",
    "Report",
    "RerunRecording",
    "WindowEvents",
    "WindowFrames",
]
