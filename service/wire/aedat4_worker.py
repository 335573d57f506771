"""Reads an AEDAT4 file in a process of its own and passes its events on through a pipe.

dv-processing parses in native code that trusts the file: a damaged one may crash it, make it spin, or make it ask for
all memory. This script is what crashes instead of the caller. :mod:`service.wire.aedat4` starts it and checks what it
says.

Run by path, with nothing imported from this project, so that it starts with nothing but NumPy and dv-processing::

    python aedat4_worker.py FILE MEMORY_BYTES OPEN_CPU_SECONDS PACKET_CPU_SECONDS

Output: messages of a 5-byte header (kind u8, length u32, little-endian) and ``length`` bytes.

====  ===========================================================
kind  payload
====  ===========================================================
S     sensor size: width i32, height i32
E     n events: n times i64 (µs), n x i16, n y i16, n polarity i8
Z     empty: that was all
X     UTF-8: why the file could not be read
====  ===========================================================
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

CHUNK_EVENTS = 65_536
"""Packets are gathered until they hold about this many events; a message never holds more."""


def limit_memory(memory_bytes: int) -> None:
    """Bound this process's address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or memory_bytes < hard:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))


def limit_step(cpu_seconds: float) -> None:
    """End this process if what follows burns more processor time than this, where the system can.

    dv-processing spins for ever on most damaged packets. Processor time tells that from a machine that is busy with
    other things, so the limit can be short, and it holds even when the caller is gone.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def send(out: BinaryIO, kind: bytes, *payload: bytes) -> None:
    """Write one message."""
    out.write(kind + struct.pack("<I", sum(map(len, payload))))
    for part in payload:
        out.write(part)
    out.flush()


def send_events(out: BinaryIO, events: NDArray[np.void]) -> None:
    """Send dv-processing's records in messages of a bounded size."""
    for first in range(0, len(events), CHUNK_EVENTS):
        part = events[first : first + CHUNK_EVENTS]
        fields = (("timestamp", "<i8"), ("x", "<i2"), ("y", "<i2"), ("polarity", "i1"))
        send(out, b"E", *(part[name].astype(dtype).tobytes() for name, dtype in fields))


def reason(error: BaseException) -> str:
    """The one line of a dv-processing error that says something; the rest names source files and stack frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    useful = lines[1] if lines[0].startswith("/") and len(lines) > 1 else lines[0]
    return useful.split(" - Error info:")[0].split("Error info:")[0].rstrip(": ") or type(error).__name__


def read(path: str, out: BinaryIO, open_seconds: float, packet_seconds: float) -> None:
    """Send the size and the events of the first camera in a recording."""
    import dv_processing as dv

    limit_step(open_seconds)
    recording = dv.io.MonoCameraRecording(path)
    if not recording.isEventStreamAvailable():
        send(out, b"X", b"there is no event stream in the file")
        return
    resolution = recording.getEventResolution()
    if resolution is None:
        send(out, b"X", b"the file does not say how large the sensor is")
        return
    send(out, b"S", struct.pack("<ii", *resolution))

    packets: list[NDArray[np.void]] = []
    count = 0
    while True:
        limit_step(packet_seconds)
        packet = recording.getNextEventBatch()
        if packet is None:
            break
        # numpy() is a view of memory that dv-processing frees with the packet.
        packets.append(packet.numpy().copy())
        count += len(packets[-1])
        if count >= CHUNK_EVENTS:
            send_events(out, np.concatenate(packets))
            packets, count = [], 0
    if packets:
        send_events(out, np.concatenate(packets))
    send(out, b"Z")


def main(arguments: list[str]) -> int:
    path, memory_bytes, open_seconds, packet_seconds = arguments
    # Native code may print; only messages may reach the pipe.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        limit_memory(int(memory_bytes))
        try:
            read(path, out, float(open_seconds), float(packet_seconds))
        except BrokenPipeError:
            return 1
        except MemoryError:
            send(out, b"X", b"reading it takes more memory than is allowed")
        except (RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
            send(out, b"X", reason(error).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
