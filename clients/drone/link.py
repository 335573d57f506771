"""MAVLink 2 over UDP or a serial line."""

from __future__ import annotations

import os
import time
from typing import Any

from clients.drone.geometry import Sectors
from clients.drone.reporter import MOST_OCCUPANCIES, Heartbeat, Obstacles, Occupancy, Report, StatusText
from clients.errors import ConnectError, MissingExtraError
from clients.extras import require

COMPONENT = 191
"""``MAV_COMP_ID_ONBOARD_COMPUTER``."""
OCCUPANCY_NAME = b"segclass"
_TEXT_BYTES = 50
_FRAME_BODY_FRD = 12
_SENSOR_UNKNOWN = 4


class MavlinkLink:
    """Sends reports to a flight controller, and hears whether it is there.

    Parameters
    ----------
    device : str
        As pymavlink has it: ``udpout:HOST:PORT``, ``udpin:HOST:PORT``, ``tcp:HOST:PORT``, or a serial device as
        ``/dev/ttyAMA0``.
    system : int
        The drone's system id.
    baud : int
        Of a serial line.

    Raises
    ------
    MissingExtraError
        If pymavlink, or pyserial for a serial device, is not installed.
    ConnectError
        If the device cannot be opened.
    """

    def __init__(self, device: str, *, system: int = 1, baud: int = 921_600) -> None:
        # Read when pymavlink is imported: without it, version 1 is spoken until the other side speaks 2.
        os.environ["MAVLINK20"] = "1"
        mavutil = require("pymavlink.mavutil", "MAVLink", extra="drone")
        try:
            self._connection: Any = mavutil.mavlink_connection(
                device, baud=baud, source_system=system, source_component=COMPONENT, dialect="common"
            )
        except ImportError as error:
            raise MissingExtraError(
                f"{device} needs {error.name}, which is not installed: pip install 'spikeseg[drone]'"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ConnectError(f"{device} cannot be opened for MAVLink: {error}") from None
        self._mavlink: Any = mavutil.mavlink
        self._begun = time.monotonic()
        self._heard_at: float | None = None

    def send(self, report: Report) -> None:
        """Send one report; what a link that is down swallows is lost, the next one comes soon."""
        mav = self._connection.mav
        try:
            match report:
                case Heartbeat(healthy):
                    status = self._mavlink.MAV_STATE_ACTIVE if healthy else self._mavlink.MAV_STATE_CRITICAL
                    mav.heartbeat_send(
                        self._mavlink.MAV_TYPE_ONBOARD_CONTROLLER, self._mavlink.MAV_AUTOPILOT_INVALID, 0, 0, status
                    )
                case Obstacles(sectors):
                    self._send_distances(sectors)
                case Occupancy(shares):
                    data = list(shares) + [0.0] * (MOST_OCCUPANCIES - len(shares))
                    mav.debug_float_array_send(self._since_us(), OCCUPANCY_NAME, len(shares), data)
                case StatusText(severity, text):
                    mav.statustext_send(int(severity), text.encode("ascii", "replace")[:_TEXT_BYTES])
        except OSError:
            # A cable that is out, a network that is away: it may come back.
            return

    def hear(self) -> None:
        """Read what has come from the flight controller."""
        while True:
            try:
                message = self._connection.recv_match(blocking=False)
            except OSError:
                return
            if message is None:
                return
            if message.get_type() == "HEARTBEAT" and message.get_srcComponent() != COMPONENT:
                self._heard_at = time.monotonic()

    @property
    def silence_s(self) -> float | None:
        """Since when the flight controller has not been heard, in seconds; None if it never was."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    def close(self) -> None:
        """Close the device."""
        self._connection.close()

    def _send_distances(self, sectors: Sectors) -> None:
        self._connection.mav.obstacle_distance_send(
            self._since_us(),
            _SENSOR_UNKNOWN,
            list(sectors.distances_cm),
            max(1, round(sectors.increment_deg)),
            sectors.min_cm,
            sectors.max_cm,
            sectors.increment_deg,
            sectors.offset_deg,
            _FRAME_BODY_FRD,
        )

    def _since_us(self) -> int:
        return int((time.monotonic() - self._begun) * 1e6)
