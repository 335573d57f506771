"""Segment a vehicle's events, and tell its network.

python -m clients.vehicle ros:///event_camera/events --ros /spikeseg/labels
python -m clients.vehicle ros1:///dvs/events --ros1 /spikeseg/labels
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
from clients.sources import ACCEPTED, Source, open_source
from clients.vehicle.bridge import Bridge
from clients.vehicle.publishing import LabelPublisher
from clients.vehicle.ros import RosEvents, RosPublisher
from clients.vehicle.ros1 import Ros1Events, Ros1Publisher
from clients.vehicle.watch import Watch
from clients.vehicle.zenoh_bridge import ZenohEvents, ZenohPublisher

_FRAME_ID = "event_camera"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = sys.argv[1:] if argv is None else argv
    # What roslaunch adds, as __name:=front, is rospy's.
    arguments = _parser().parse_args([word for word in given if ":=" not in word])
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
    if arguments.ros is None and arguments.ros1 is None and arguments.zenoh is None:
        raise InputError("say with --ros TOPIC, --ros1 TOPIC or --zenoh KEY where the labels go")
    watch = Watch(age_limit_s=arguments.age_limit)
    with ExitStack() as closing:
        source = closing.enter_context(_source(arguments))
        frame_id = arguments.frame_id or getattr(source, "frame_id", "") or _FRAME_ID
        publishers: list[LabelPublisher] = []
        if arguments.ros is not None:
            publishers.append(RosPublisher(arguments.ros, domain=arguments.domain, frame_id=frame_id))
        if arguments.ros1 is not None:
            publishers.append(Ros1Publisher(arguments.ros1, frame_id=frame_id))
        if arguments.zenoh is not None:
            publishers.append(
                ZenohPublisher(arguments.zenoh, connect=arguments.zenoh_connect, listen=arguments.zenoh_listen)
            )
        for publisher in publishers:
            closing.callback(publisher.close)
        client = closing.enter_context(Client(arguments.url, token=arguments.token))
        bridge = Bridge(publishers, watch)
        bridge.run(client, source, model=arguments.model, window_us=arguments.window_us, loop=arguments.loop)


def _source(arguments: argparse.Namespace) -> Source:
    address: str = arguments.source
    if address.startswith("ros://"):
        return RosEvents(address.removeprefix("ros://"), domain=arguments.domain)
    if address.startswith("ros1://"):
        return Ros1Events(address.removeprefix("ros1://"))
    if address.startswith("zenoh://"):
        key = address.removeprefix("zenoh://")
        return ZenohEvents(key, connect=arguments.zenoh_connect, listen=arguments.zenoh_listen)
    return open_source(address)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients.vehicle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=f"ros:///TOPIC, ros1:///TOPIC, zenoh://KEY, or: {ACCEPTED}")
    parser.add_argument("--ros", metavar="TOPIC", help="publish labels to this topic of ROS 2, by DDS")
    parser.add_argument("--ros1", metavar="TOPIC", help="publish labels to this topic of ROS 1, by rospy")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID (0)")
    parser.add_argument("--frame-id", help="frame of the camera; the events' own, or event_camera, if not given")
    parser.add_argument("--zenoh", metavar="KEY", help="publish labels under this key of Zenoh")
    parser.add_argument("--zenoh-connect", metavar="ENDPOINT", help="as tcp/192.0.2.1:7447; multicast if not given")
    parser.add_argument("--zenoh-listen", metavar="ENDPOINT", help="as tcp/0.0.0.0:7447")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--token", help="bearer token, if the service asks for one")
    parser.add_argument("--model", help="network; the service's default if not given")
    parser.add_argument("--window-us", type=int, help="length of a window; the network's own if not given")
    parser.add_argument("--age-limit", type=float, default=1.0, help="seconds until a mask is too old to be told (1.0)")
    parser.add_argument("--loop", action="store_true", help="play a recording again and again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
