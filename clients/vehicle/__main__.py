"""Segment a vehicle's events, and tell its network.

python -m clients.vehicle ros:///event_camera/events --ros /spikeseg/labels
python -m clients.vehicle zenoh://car/events --zenoh car
python -m clients.vehicle drive.aedat4 --ros /spikeseg/labels --zenoh car --loop
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from clients.client import Client
from clients.errors import ClientError, InputError
from clients.health import StateChange
from clients.options import StreamOptions
from clients.sources import ACCEPTED, Source, open_source, play
from clients.vehicle.publishing import LabelPublisher
from clients.vehicle.ros import RosEvents, RosPublisher
from clients.vehicle.zenoh_bridge import ZenohEvents, ZenohPublisher
from models.classes import UNLABELLED

logger = logging.getLogger("clients.vehicle")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _stop)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        return 0
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.ros is None and arguments.zenoh is None:
        raise InputError("say with --ros TOPIC or --zenoh KEY where the labels go")
    with ExitStack() as closing:
        source = closing.enter_context(_source(arguments))
        publishers: list[LabelPublisher] = []
        if arguments.ros is not None:
            publishers.append(RosPublisher(arguments.ros, domain=arguments.domain, frame_id=arguments.frame_id))
        if arguments.zenoh is not None:
            publishers.append(
                ZenohPublisher(arguments.zenoh, connect=arguments.zenoh_connect, listen=arguments.zenoh_listen)
            )
        for publisher in publishers:
            closing.callback(publisher.close)
        client = closing.enter_context(Client(arguments.url, token=arguments.token))
        batches = play(source, speed=1.0, loops=None if arguments.loop else 1)
        # A camera cannot wait: what comes too fast is left out.
        options = StreamOptions(queue="drop-oldest", queue_windows=1, lost_session="restart")
        with client.stream(
            batches,
            source.sensor,
            model=arguments.model,
            window_us=arguments.window_us,
            options=options,
            on_state=_tell,
        ) as results:
            for publisher in publishers:
                publisher.announce(results.session.classes, UNLABELLED)
            for result in results:
                for publisher in publishers:
                    publisher.publish(result)


def _source(arguments: argparse.Namespace) -> Source:
    address: str = arguments.source
    if address.startswith("ros://"):
        return RosEvents(address.removeprefix("ros://"), domain=arguments.domain)
    if address.startswith("zenoh://"):
        key = address.removeprefix("zenoh://")
        return ZenohEvents(key, connect=arguments.zenoh_connect, listen=arguments.zenoh_listen)
    return open_source(address)


def _tell(change: StateChange) -> None:
    logger.info("segmentation: %s -> %s %s", change.before.value, change.after.value, change.reason)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients.vehicle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=f"ros:///TOPIC, zenoh://KEY, or: {ACCEPTED}")
    parser.add_argument("--ros", metavar="TOPIC", help="publish labels to this topic of ROS 2, by DDS")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID (0)")
    parser.add_argument("--frame-id", default="event_camera", help="frame of the camera (event_camera)")
    parser.add_argument("--zenoh", metavar="KEY", help="publish labels under this key of Zenoh")
    parser.add_argument("--zenoh-connect", metavar="ENDPOINT", help="as tcp/192.0.2.1:7447; multicast if not given")
    parser.add_argument("--zenoh-listen", metavar="ENDPOINT", help="as tcp/0.0.0.0:7447")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--token", help="bearer token, if the service asks for one")
    parser.add_argument("--model", help="network; the service's default if not given")
    parser.add_argument("--window-us", type=int, help="length of a window; the network's own if not given")
    parser.add_argument("--loop", action="store_true", help="play a recording again and again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
