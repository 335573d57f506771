"""RAW (EVT 2.0, EVT 3.0) and DAT files of Prophesee's cameras."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clients.errors import RecordingError
from clients.sources.evt import DatDecoder, Decoder, Evt2Decoder, Evt3Decoder
from clients.sources.source import Source
from models.events import EventBatch, SensorSize

_CHUNK_BYTES = 1 << 19
_LONGEST_HEADER = 1 << 16
_CD_TYPES = (0x00, 0x0C)
_DAT_EVENT_BYTES = 8
_DAT_SENSOR = SensorSize(304, 240)
"""The ATIS, whose files do not say how large it is."""
_DECODERS: dict[str, type[Decoder]] = {"EVT2": Evt2Decoder, "EVT3": Evt3Decoder, "DAT": DatDecoder}
# What older headers name in place of a size.
_SENSORS = (
    (re.compile(r"gen3|gen31|3\.[01]", re.IGNORECASE), SensorSize(640, 480)),
    (re.compile(r"gen4|imx636|4\.[012]", re.IGNORECASE), SensorSize(1280, 720)),
    (re.compile(r"genx320", re.IGNORECASE), SensorSize(320, 320)),
)


@dataclass(frozen=True, slots=True)
class Header:
    """The text in front of a file's events.

    Attributes
    ----------
    encoding : str
        ``EVT2``, ``EVT3`` or ``DAT``.
    sensor : SensorSize or None
        If the text says how large it is.
    length : int
        Bytes before the first event.
    """

    encoding: str
    sensor: SensorSize | None
    length: int


class PropheseeSource(Source):
    """The events of a RAW or DAT file, in bounded memory.

    Parameters
    ----------
    path : Path
    sensor : SensorSize, optional
        For files that do not say how large it is, or that are wrong about it.

    Raises
    ------
    RecordingError
        Here or while iterating: the file cannot be opened, has another encoding, does not say how large its sensor is,
        is cut off within an event, or its times step back for long.
    """

    def __init__(self, path: Path, *, sensor: SensorSize | None = None, ordered: bool = True) -> None:
        self._path = path
        with _opened(path) as file:
            self._header = read_header(file, path)
        size = sensor or self._header.sensor
        if size is None:
            raise RecordingError(f"{path} does not say how large its sensor is: give the size (--sensor WIDTHxHEIGHT)")
        self.format = f"Prophesee {'' if self._header.encoding == 'DAT' else 'RAW '}{self._header.encoding}"  # type: ignore[misc]
        super().__init__(str(path), size, ordered=ordered)

    def _read(self) -> Iterator[EventBatch]:
        decoder = _DECODERS[self._header.encoding]()
        try:
            with _opened(self._path) as file:
                file.seek(self._header.length)
                while data := file.read(_CHUNK_BYTES):
                    yield decoder.decode(data)
            decoder.finish()
        except RecordingError as error:
            raise RecordingError(f"{self._path}: {error}") from error


def read_header(file: BinaryIO, path: Path) -> Header:
    """Read the text in front of a file's events; the file must be at its beginning.

    Raises
    ------
    RecordingError
        If the encoding is unknown.
    """
    fields: dict[str, str] = {}
    text = ""
    while file.tell() < _LONGEST_HEADER:
        begin = file.tell()
        line = file.readline()
        if not line.startswith(b"%"):
            file.seek(begin)
            break
        words = line[1:].decode("ascii", errors="replace").strip()
        text += words + "\n"
        if words == "end":
            break
        key, _, value = words.partition(" ")
        fields[key.lower()] = value.strip()
    if _is_dat(text, path):
        kind = file.read(2)
        if len(kind) < 2 or kind[0] not in _CD_TYPES or kind[1] != _DAT_EVENT_BYTES:
            raise RecordingError(f"{path} is a DAT file, but not of change-detection events of 8 bytes")
        return Header("DAT", _sensor(fields) or _DAT_SENSOR, file.tell())
    encoding = _encoding(fields)
    if encoding not in _DECODERS:
        said = f"the encoding {encoding}" if encoding else "no encoding"
        raise RecordingError(f"{path} names {said} in its header; EVT2, EVT3 and DAT can be read")
    return Header(encoding, _sensor(fields), file.tell())


def _is_dat(text: str, path: Path) -> bool:
    return "data file containing" in text.lower() or (path.suffix.lower() == ".dat" and "evt" not in text.lower())


def _encoding(fields: Mapping[str, str]) -> str:
    """As ``% evt 3.0``, or ``% format EVT3;height=720;width=1280``."""
    if "format" in fields:
        return fields["format"].partition(";")[0].upper()
    version = fields.get("evt", "")
    return f"EVT{version.removesuffix('.0').replace('.', '')}" if version else ""


def _sensor(fields: Mapping[str, str]) -> SensorSize | None:
    """As ``% geometry 640x480``, ``% format …;height=720;width=1280``, ``% Width 304`` or by the camera's name."""
    sizes = [
        re.fullmatch(r"(\d+)x(\d+)", fields.get("geometry", "")),
        re.fullmatch(r"(\d+) (\d+)", f"{fields.get('width', '')} {fields.get('height', '')}"),
    ]
    options = dict(part.split("=", 1) for part in fields.get("format", "").lower().split(";") if "=" in part)
    sizes.append(re.fullmatch(r"(\d+) (\d+)", f"{options.get('width', '')} {options.get('height', '')}"))
    for found in sizes:
        if found is not None and 0 < int(found[1]) <= 0xFFFF and 0 < int(found[2]) <= 0xFFFF:
            return SensorSize(int(found[1]), int(found[2]))
    named = " ".join(fields.get(key, "") for key in ("sensor_name", "sensor_generation", "plugin_name"))
    return next((size for pattern, size in _SENSORS if pattern.search(named)), None)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from error
