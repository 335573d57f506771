"""Send a video's frames, of which the service makes the events: ``python -m clients.examples.stream_video FILE [URL]``.

A program that has pictures of its own gives ``Frame(t_us, pixels)`` from any iterable, and the sensor's size.
"""

from __future__ import annotations

import sys

from clients import Client, FrameOptions, StreamOptions, open_source
from clients.errors import SourceError
from clients.sources import FrameSource


def main(path: str, url: str = "http://127.0.0.1:8000") -> None:
    """Print a line for each window."""
    with open_source(path) as source, Client(url) as client:
        if not isinstance(source, FrameSource):
            raise SourceError(f"{path} has no frames; clients.examples.stream_recording streams events")
        options = StreamOptions(frames=FrameOptions(contrast_on=0.15, contrast_off=0.15))
        with client.stream(source.frames(), source.sensor, options=options) as stream:
            names = {item.id: item.name for item in stream.session.classes}
            for result in stream:
                largest = max(range(len(result.class_share)), key=result.class_share.__getitem__)
                print(f"{result.t_end / 1e6:9.3f} s  {result.events:6d} events  mostly {names[largest]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
