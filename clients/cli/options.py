"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from clients.client import Client
from clients.sources import ACCEPTED, Source, open_source
from models.events import SensorSize

Command = Callable[..., Any]


class SensorType(click.ParamType[SensorSize]):
    """A size as ``640x480``."""

    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SensorSize:
        """See click."""
        if isinstance(value, SensorSize):
            return value
        found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if found is None or not (0 < int(found[1]) <= 0xFFFF and 0 < int(found[2]) <= 0xFFFF):
            self.fail(f"{value!r} is not a size like 640x480", param, ctx)
        return SensorSize(int(found[1]), int(found[2]))


class TimeType(click.ParamType[int]):
    """A length of time in a unit, as whole microseconds."""

    def __init__(self, name: str, unit_us: int) -> None:
        self.name = name
        self._unit_us = unit_us

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (math.isfinite(number) and 1 <= number * self._unit_us <= 1e15):
            self.fail(f"{value} is no length of time above 0", param, ctx)
        return round(number * self._unit_us)


class PositiveType(click.ParamType[float]):
    """A number above 0."""

    name = "NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not 0 < number < math.inf:
            self.fail(f"{value} is not above 0", param, ctx)
        return number


class LoopType(click.ParamType[int]):
    """A number of rounds, or ``forever``, which is 0."""

    name = "N|forever"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        if value == "forever":
            return 0
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a number of rounds nor 'forever'", param, ctx)
        return int(value)


POSITIVE = PositiveType()
SENSOR = SensorType()
MILLISECONDS = TimeType("MS", 1_000)
SECONDS = TimeType("S", 1_000_000)


@dataclass(frozen=True, slots=True)
class Service:
    """How to reach the service."""

    url: str
    token: str | None
    ca: str | None
    insecure: bool
    timeout: float

    def client(self) -> Client:
        """A client of it."""
        return Client(self.url, timeout=self.timeout, token=self.token, verify=self.verify)

    @property
    def verify(self) -> bool | str:
        """As the clients take it."""
        return False if self.insecure else self.ca or True


def service_options(command: Command) -> Command:
    """Options that say where the service is; the command gets ``service``."""

    @wraps(command)
    def bundled(**given: Any) -> Any:
        names = ("url", "token", "ca", "insecure", "timeout")
        return command(service=Service(**{name: given.pop(name) for name in names}), **given)

    return _with(
        bundled,
        click.option(
            "--url",
            default="http://127.0.0.1:8000",
            envvar="SPIKESEG_URL",
            show_default=True,
            show_envvar=True,
            help="Address of the service.",
        ),
        click.option("--token", envvar="SPIKESEG_TOKEN", show_envvar=True, help="Bearer token, if the service asks."),
        click.option("--ca", metavar="FILE", help="Certificates to trust, PEM."),
        click.option("--insecure", is_flag=True, help="Do not check the service's certificate."),
        click.option(
            "--timeout",
            type=POSITIVE,
            default=60.0,
            show_default=True,
            help="Longest wait for an answer, in seconds.",
        ),
    )


def source_options(command: Command) -> Command:
    """Options that say how a source is read."""
    return _with(
        command,
        click.option("--sensor", type=SENSOR, help="Size of the sensor, for files that do not say (RAW, DAT, NPZ)."),
        click.option("--topic", help="Topic of a rosbag; the first one with events if not given."),
        click.option(
            "--skip", "skip_us", type=SECONDS, default=None, help="Begin so many seconds after the first event."
        ),
        click.option("--duration", "duration_us", type=SECONDS, help="End after so many seconds of the sensor's time."),
    )


def network_options(command: Command) -> Command:
    """Options that choose a network and its window."""
    return _with(
        command,
        click.option("--model", help="Network; the service's default if not given, see: spikeseg models."),
        click.option(
            "--window-ms",
            "window_us",
            type=MILLISECONDS,
            help="Length of a window in milliseconds; the network's own if not given.",
        ),
    )


def opened(address: str, sensor: SensorSize | None, topic: str | None, *, ordered: bool = True) -> Source:
    """Open a source of events."""
    return open_source(address, sensor=sensor, topic=topic, ordered=ordered)


SOURCE_HELP = f"SOURCE is one of: {ACCEPTED}."


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
