"""The passes over events of ``events.c``, loaded once; there is NumPy in their place where nothing can be built."""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path
from threading import Lock

from models.errors import BackendUnavailableError
from models.native.build import BESIDE, INSTRUCTIONS, build_all, find_or_build, typed

SOURCE = Path(__file__).with_name("events.c")
_WHAT = "the library of event filters"

logger = logging.getLogger(__name__)


class EventLibrary:
    """The functions of the library, with their types; calls release the GIL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self.filter = typed(
            library, "filter", i64, *(pointer,) * 4, i64, i64, *(pointer, pointer, i64, i64), *(pointer,) * 5
        )
        self.polarity_counts = typed(
            library, "polarity_counts", i32, *(pointer,) * 3, i64, *(i32,) * 3, i64, i64, ctypes.c_float, pointer
        )


_loading = Lock()


@lru_cache(maxsize=1)
def _load() -> EventLibrary | None:
    try:
        path = find_or_build(SOURCE, BESIDE, _WHAT)
        return EventLibrary(path)
    except (BackendUnavailableError, OSError, AttributeError) as error:
        logger.warning("events are filtered and counted by NumPy, which is slower: %s", error)
        return None


def event_library() -> EventLibrary | None:
    """The library of this process, built if need be (a second, once for a machine); None if that cannot be."""
    with _loading:
        return _load()


def build_for_image(folder: Path, names: tuple[str, ...] = tuple(INSTRUCTIONS)) -> list[Path]:
    """Build the library for several kinds of processors; raises as ``models.native.build.build_all``."""
    return build_all(SOURCE, folder, names, _WHAT)
