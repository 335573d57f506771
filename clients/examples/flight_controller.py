"""What a flight controller hears: ``python -m clients.examples.flight_controller [DEVICE [REPORTS]]``.

DEVICE is the other end of the companion's ``--mavlink``, by default ``udpin:127.0.0.1:14550``. After so many reports of
distances the program ends; without REPORTS it goes on. The companion runs beside it::

    python -m clients.drone flight.aedat4 --mavlink udpout:127.0.0.1:14550 --height 2.0 --pitch 15 --hfov 70
"""

from __future__ import annotations

import os
import sys
from typing import Any

UNKNOWN = 0xFFFF


def nearest(message: Any) -> str:
    """The nearest obstacle of an ``OBSTACLE_DISTANCE``, and in which direction."""
    seen = [(cm, number) for number, cm in enumerate(message.distances) if cm != UNKNOWN]
    if not seen:
        return "nothing is known"
    cm, number = min(seen)
    if cm > message.max_distance:
        known = f"{len(seen)} of {len(message.distances)} bearings known"
        return f"clear as far as {message.max_distance / 100:.0f} m, {known}"
    bearing = message.angle_offset + (number + 0.5) * message.increment_f
    return f"obstacle at {cm / 100:.1f} m, {abs(bearing):.0f} degrees {'right' if bearing > 0 else 'left'}"


def main(device: str = "udpin:127.0.0.1:14550", reports: str = "0") -> None:
    """Print what comes."""
    os.environ["MAVLINK20"] = "1"
    from pymavlink import mavutil

    connection = mavutil.mavlink_connection(device, dialect="common")
    left = int(reports) or -1
    while left:
        message = connection.recv_match(type=["HEARTBEAT", "STATUSTEXT", "OBSTACLE_DISTANCE"], blocking=True)
        match message.get_type():
            case "HEARTBEAT":
                fresh = message.system_status == mavutil.mavlink.MAV_STATE_ACTIVE
                print(f"-- component {message.get_srcComponent()}: masks are {'fresh' if fresh else 'NOT fresh'}")
            case "STATUSTEXT":
                print(f"-- {message.text}")
            case _:
                print(nearest(message))
                left -= 1
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
