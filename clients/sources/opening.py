"""One address for any source: told apart by its beginning, not by its name."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from clients.errors import CameraError, RecordingError, SourceError
from clients.sources import hdf5, npz, rosbag
from clients.sources.aedat4 import Aedat4Source
from clients.sources.cameras import CameraSource, NetworkSource
from clients.sources.npz import NpzSource
from clients.sources.prophesee import PropheseeSource
from clients.sources.rosbag import RosbagSource
from clients.sources.source import Source
from clients.sources.video import LONGEST_SIDE, VideoSource, WebcamSource
from models.events import SensorSize

ACCEPTED = (
    "AEDAT4, Prophesee RAW (EVT2, EVT3) and DAT, NPZ (t, x, y, p, width, height), HDF5 (DSEC, DDD17), rosbags "
    "(event_camera_msgs, dvs_msgs), video (MP4, AVI, MKV, WebM), camera://[SERIAL], tcp://HOST:PORT, webcam://[NUMBER]"
)
_HEAD_BYTES = 32
_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


def open_source(
    address: str | os.PathLike[str],
    *,
    sensor: SensorSize | None = None,
    topic: str | None = None,
    longest_side: int = LONGEST_SIDE,
    ordered: bool = True,
) -> Source:
    """Open events, whatever they are in.

    Parameters
    ----------
    address : str or path
        A file or folder; ``camera://`` or ``camera://SERIAL`` (iniVation, on this machine); ``tcp://HOST:PORT`` (a
        network stream of dv-processing); ``webcam://NUMBER``.
    sensor : SensorSize, optional
        For files that do not say how large it is (RAW, DAT, NPZ).
    topic : str, optional
        Of a rosbag; the first one with events if not given.
    longest_side : int
        Video and webcams are scaled down to it, in pixels.
    ordered : bool
        Whether times that go back are an error. Without it they are passed on; a stream takes them only with
        ``StreamOptions(reorder_us=…)`` and the like.

    Raises
    ------
    SourceError
        If there is nothing at the address, or nothing that can be read; the message says what can.
    MissingExtraError
        If the format needs a library that is not installed.
    """
    text = os.fspath(address)
    if "://" in text:
        return _live(text, longest_side, ordered)
    path = Path(text)
    if path.is_dir():
        if not (path / "metadata.yaml").is_file():
            raise RecordingError(f"{path} is a folder, but no bag of ROS 2: it has no metadata.yaml")
        return RosbagSource(path, topic=topic, ordered=ordered)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from error
    if not head:
        raise RecordingError(f"{path}: the file is empty")
    return _file(path, head, sensor, topic, longest_side, ordered)


def _file(
    path: Path, head: bytes, sensor: SensorSize | None, topic: str | None, longest_side: int, ordered: bool
) -> Source:
    if head.startswith(b"#!AER-DAT") or path.suffix == ".aedat4":
        return Aedat4Source(path, ordered=ordered)
    if head.startswith(npz.MAGIC) or path.suffix in (".npz", ".npy"):
        return NpzSource(path, sensor=sensor, ordered=ordered)
    if head.startswith(hdf5.MAGIC):
        return hdf5.open_hdf5(path, sensor=sensor, ordered=ordered)
    if head.startswith(b"%") or path.suffix in (".raw", ".dat"):
        return PropheseeSource(path, sensor=sensor, ordered=ordered)
    if head.startswith((rosbag.ROS1_MAGIC, rosbag.MCAP_MAGIC)):
        return RosbagSource(path, topic=topic, ordered=ordered)
    if head.startswith(rosbag.SQLITE_MAGIC):
        # A bag of ROS 2 is a folder; its description lies beside the data.
        return RosbagSource(path.parent, topic=topic, ordered=ordered)
    if _is_video(head) or path.suffix.lower() in _VIDEO_SUFFIXES:
        return VideoSource(path, longest_side=longest_side)
    raise RecordingError(f"{path} is in no format that can be read. These can: {ACCEPTED}")


def _live(address: str, longest_side: int, ordered: bool) -> Source:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SourceError(f"{address} is not an address: {error}") from None
    match parts.scheme:
        case "camera":
            return CameraSource(parts.netloc, ordered=ordered)
        case "tcp":
            if not host or port is None:
                raise SourceError(f"{address} should be tcp://HOST:PORT")
            try:
                return NetworkSource(host, port, ordered=ordered)
            except socket.gaierror as error:
                raise CameraError(f"{address}: {host} is not known: {error.strerror}") from error
        case "webcam":
            if not (parts.netloc or "0").isdecimal():
                raise SourceError(f"{address} should be webcam://NUMBER")
            return WebcamSource(int(parts.netloc or "0"), longest_side=longest_side)
    raise SourceError(f"{address} begins with {parts.scheme}://, which is not known. These are accepted: {ACCEPTED}")


def _is_video(head: bytes) -> bool:
    return head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head[:4] == b"\x1aE\xdf\xa3"
