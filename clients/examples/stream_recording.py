"""Stream a recording and print what each window shows: ``python -m clients.examples.stream_recording FILE [URL]``."""

from __future__ import annotations

import sys

from clients import Client, open_source


def main(path: str, url: str = "http://127.0.0.1:8000") -> None:
    """Print a line for each window."""
    with open_source(path) as source, Client(url) as client:
        stream = client.stream(source)
        names = {item.id: item.name for item in stream.session.classes}
        for result in stream:
            largest = max(range(len(result.class_share)), key=result.class_share.__getitem__)
            activity = result.activity
            assert activity is not None
            print(
                f"{result.t_end / 1e6:9.3f} s  {result.events:6d} events  mostly {names[largest]}"
                f"  {activity.firing_rate:.1%} of neurons fired"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
