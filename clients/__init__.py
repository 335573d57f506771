"""Clients of the segmentation service; they need neither torch nor a web framework.

>>> with Client("http://127.0.0.1:8000") as client, open_source("recording.aedat4") as source:  # doctest: +SKIP
...     for result in client.stream(source, window_us=33_333):
...         print(result.window, result.mask.shape)
"""

from clients.async_client import AsyncClient, AsyncResultStream
from clients.client import Client
from clients.errors import ClientError
from clients.following import Follower
from clients.health import Health, StateChange, StreamState
from clients.items import Advance, Flush, Frame
from clients.options import FrameOptions, StreamOptions
from clients.overlay import color_mask, overlay
from clients.policies import Retries, Timeouts
from clients.results import Activity, Latency, LayerActivity, ModelInfo, PictureResult, Result, SessionInfo, Skipped
from clients.sources import open_source
from clients.streaming import ResultStream

__all__ = [
    "Activity",
    "Advance",
    "AsyncClient",
    "AsyncResultStream",
    "Client",
    "ClientError",
    "Flush",
    "Follower",
    "Frame",
    "FrameOptions",
    "Health",
    "Latency",
    "LayerActivity",
    "ModelInfo",
    "PictureResult",
    "Result",
    "ResultStream",
    "Retries",
    "SessionInfo",
    "Skipped",
    "StateChange",
    "StreamOptions",
    "StreamState",
    "Timeouts",
    "color_mask",
    "open_source",
    "overlay",
]
