"""Clients of the segmentation service; they need neither torch nor a web framework.

>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     with client.stream(batches, sensor, window_us=33_333) as results:
...         for result in results:
...             print(result.window, result.mask.shape)
"""

from clients.client import Client
from clients.errors import ClientError
from clients.options import StreamOptions
from clients.results import Activity, Latency, LayerActivity, ModelInfo, Result, SessionInfo, Skipped
from clients.streaming import ResultStream

__all__ = [
    "Activity",
    "Client",
    "ClientError",
    "Latency",
    "LayerActivity",
    "ModelInfo",
    "Result",
    "ResultStream",
    "SessionInfo",
    "Skipped",
    "StreamOptions",
]
