"""Run the drone's companion.

    python -m clients.drone camera:// --mavlink udpout:127.0.0.1:14550 --height 2.0 --pitch 15 --hfov 70
    python -m clients.drone flight.aedat4 --mavlink /dev/ttyAMA0 --no-distances

Distances need the camera's height, pitch and field of view (or its intrinsics); without them they are refused, and only
occupancies are told (``--no-distances``).
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
from collections.abc import Sequence

from clients.client import Client
from clients.drone.companion import Companion
from clients.drone.geometry import GroundCamera, ObstacleMap
from clients.drone.link import MavlinkLink
from clients.drone.reporter import Reporter, Timing, class_ids
from clients.errors import ClientError, InputError
from clients.sources import ACCEPTED, open_source, play
from models.events import SensorSize

_OBSTACLES = "construction+sky,object,nature,human,vehicle"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        return 130
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if not arguments.no_distances and None in (arguments.height, arguments.pitch):
        raise InputError("distances need --height and --pitch of the camera; without them say --no-distances")
    with (
        open_source(arguments.source) as source,
        Client(arguments.url, token=arguments.token) as client,
    ):
        client.wait_until_ready(arguments.patience)
        models = {model.name: model for model in client.models()}
        network = next((m for m in models.values() if m.default), None)
        if arguments.model is not None:
            network = models.get(arguments.model)
        if network is None:
            raise InputError(f"the service has no network {arguments.model!r}; there are: {', '.join(models)}")
        classes = [(item.id, item.name) for item in network.classes]
        obstacles = None
        if not arguments.no_distances:
            obstacles = ObstacleMap(
                _camera(arguments, source.sensor),
                obstacles=class_ids(arguments.obstacles.split(","), classes),
                ground=class_ids(arguments.ground.split(","), classes),
                min_m=arguments.min_distance,
                max_m=arguments.max_distance,
            )
        reporter = Reporter(
            classes=len(classes),
            strips=arguments.strips,
            obstacles=obstacles,
            timing=Timing(age_limit_s=arguments.age_limit),
        )
        link = MavlinkLink(arguments.mavlink, system=arguments.system, baud=arguments.baud)
        companion = Companion(link, reporter)
        signal.signal(signal.SIGTERM, lambda *_: companion.stop())
        batches = play(source, speed=1.0, loops=None if arguments.loop else 1)
        try:
            companion.run(client, batches, source.sensor, model=network.name, window_us=arguments.window_us)
        finally:
            link.close()


def _camera(arguments: argparse.Namespace, sensor: SensorSize) -> GroundCamera:
    if arguments.intrinsics is not None:
        try:
            fx, fy, cx, cy = (float(number) for number in arguments.intrinsics.split(","))
        except ValueError:
            raise InputError("--intrinsics are four numbers, FX,FY,CX,CY, in pixels") from None
        pitch = math.radians(arguments.pitch)
        return GroundCamera(sensor.width, sensor.height, fx, fy, cx, cy, arguments.height, pitch)
    if arguments.hfov is None:
        raise InputError("distances need the camera's --hfov or its --intrinsics; without them say --no-distances")
    return GroundCamera.from_view(
        sensor.width, sensor.height, hfov_deg=arguments.hfov, height_m=arguments.height, pitch_deg=arguments.pitch
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients.drone", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=f"events: {ACCEPTED}")
    parser.add_argument("--mavlink", required=True, help="udpout:HOST:PORT, udpin:HOST:PORT, or a serial device")
    parser.add_argument("--system", type=int, default=1, help="the drone's MAVLink system id (1)")
    parser.add_argument("--baud", type=int, default=921_600, help="of a serial line (921600)")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--token", help="bearer token, if the service asks for one")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for the service at the start")
    parser.add_argument("--model", help="network; the service's default if not given")
    parser.add_argument("--window-us", type=int, help="length of a window; the network's own if not given")
    parser.add_argument("--height", type=float, help="of the camera above the ground, in metres")
    parser.add_argument("--pitch", type=float, help="of the camera, downwards from level, in degrees")
    parser.add_argument("--hfov", type=float, help="horizontal field of view, in degrees")
    parser.add_argument("--intrinsics", help="FX,FY,CX,CY in pixels, in place of --hfov")
    parser.add_argument("--no-distances", action="store_true", help="tell occupancies only")
    parser.add_argument("--obstacles", default=_OBSTACLES, help=f"classes that are obstacles ({_OBSTACLES})")
    parser.add_argument("--ground", default="flat", help="classes that are clear ground (flat)")
    parser.add_argument("--min-distance", type=float, default=0.5, help="metres (0.5)")
    parser.add_argument("--max-distance", type=float, default=30.0, help="metres (30)")
    parser.add_argument("--strips", type=int, default=8, help="upright parts of the picture for occupancies (8)")
    parser.add_argument("--age-limit", type=float, default=0.5, help="seconds until a mask is not believed (0.5)")
    parser.add_argument("--loop", action="store_true", help="play a recording again and again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
