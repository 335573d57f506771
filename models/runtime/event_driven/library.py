"""The kernel as a shared library: found or built as :mod:`models.native.build` has it, and loaded once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock

from models.errors import BackendUnavailableError
from models.native import build as native
from models.native.build import BESIDE, INSTRUCTIONS, cache_folder, instructions_here, typed

__all__ = ["BESIDE", "INSTRUCTIONS", "Kernel", "build", "build_all", "cache_folder", "instructions_here", "kernel"]

SOURCE = Path(__file__).with_name("kernel.c")
_WHAT = "the event-driven kernel"


def file_name(instructions: str) -> str:
    """Name of the library for some instructions; it changes with the source and with how it is compiled."""
    return native.file_name(SOURCE, instructions)


def build(instructions: str, folder: Path) -> Path:
    """Compile the kernel into a folder, unless it is there; raises as ``models.native.build.build``."""
    return native.build(SOURCE, instructions, folder, _WHAT)


def build_all(folder: Path, names: Iterable[str] = INSTRUCTIONS) -> list[Path]:
    """Build the kernel for several kinds of processors; raises as ``models.native.build.build_all``."""
    return native.build_all(SOURCE, folder, names, _WHAT)


class Kernel:
    """The functions of the library, with their types; calls release the GIL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self.step = typed(library, "step", i32, pointer, *(i32,) * 3, pointer, pointer, i32, i32, pointer)
        self.list_spikes = typed(library, "list_spikes", i64, pointer, i32, i32, i32, pointer, pointer)
        self.unlist_spikes = typed(library, "unlist_spikes", None, pointer, pointer, i32, i32, i32, pointer)
        self.pack_input = typed(library, "pack_input", i64, pointer, i32, i32, i32, i32, pointer, pointer, i64)
        self.count_events = typed(
            library, "count_events", i64, *(pointer,) * 3, i64, *(i32,) * 5, ctypes.c_float, pointer, pointer, i64
        )
        self.shuffle = typed(library, "shuffle", None, pointer, i32, i32, i32, i32, i32, pointer)
        self.mask = typed(library, "mask", i32, pointer, i32, i32, i32, i32, i32, i32, pointer)
        self.sizes = typed(library, "abi", i32)()


_loading = Lock()


@lru_cache(maxsize=1)
def _load() -> Kernel:
    path = native.find_or_build(SOURCE, BESIDE, _WHAT)
    try:
        return Kernel(path)
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(f"the event-driven kernel {path} cannot be loaded: {error}") from error


def kernel() -> Kernel:
    """The kernel of this process, built if need be (seconds, once for a machine).

    Raises
    ------
    BackendUnavailableError
        If there is none and none can be built.
    """
    with _loading:
        return _load()
