"""Where events come from: recordings of every common format, cameras, network streams, and video through an emulator.

Each is a :class:`~clients.sources.source.Source`: batches of events, and the size of the sensor.

>>> with open_source("recording.raw") as source:  # doctest: +SKIP
...     for events in play(source, speed=1.0):
...         print(len(events))
"""

from clients.sources.opening import ACCEPTED, open_source
from clients.sources.playback import at_pace, play, play_frames
from clients.sources.source import Source
from clients.sources.video import FrameSource

__all__ = ["ACCEPTED", "FrameSource", "Source", "at_pace", "open_source", "play", "play_frames"]
