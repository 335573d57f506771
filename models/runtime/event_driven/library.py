"""The kernel as a shared library: found beside this module or in the user's cache, or else built there.

It is one C file without dependencies. A compiler is asked for the instructions that the processor has, by name and not
as ``native``, so that what is built for a container image runs wherever those instructions are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess  # nosec B404
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock

from models.errors import BackendUnavailableError

SOURCE = Path(__file__).with_name("kernel.c")
BESIDE = SOURCE.parent / "built"
"""Where a container image or a package keeps kernels that were built for it; nothing is written here unasked."""

_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread")
_AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl")
INSTRUCTIONS: dict[str, tuple[str, ...]] = {"avx512": _AVX512, "avx2": _AVX2, "baseline": ()}
"""Flags of the compiler by the instructions that a kernel needs, the best ones first."""

_NEEDS = {
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma", "bmi1", "bmi2", "abm", "popcnt"},
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "abm", "popcnt"},
}


def instructions_here() -> tuple[str, ...]:
    """Names in ``INSTRUCTIONS`` that this processor can run, the best one first."""
    flags = _processor_flags()
    return tuple(name for name in INSTRUCTIONS if _NEEDS.get(name, set()) <= flags)


def _processor_flags() -> set[str]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


def file_name(instructions: str) -> str:
    """Name of the library for some instructions; it changes with the source and with how it is compiled."""
    flags = " ".join((*_FLAGS, *INSTRUCTIONS[instructions]))
    digest = hashlib.sha256(SOURCE.read_bytes() + flags.encode()).hexdigest()[:16]
    return f"kernel-{platform.machine().lower()}-{instructions}-{digest}.so"


def cache_folder() -> Path:
    """Where kernels are kept that were built at first use: ``$XDG_CACHE_HOME/spikeseg`` or ``~/.cache/spikeseg``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spikeseg"


def build(instructions: str, folder: Path) -> Path:
    """Compile the kernel into a folder, unless it is there.

    Raises
    ------
    BackendUnavailableError
        If there is no compiler, or it fails, or the folder cannot be written.
    """
    target = folder / file_name(instructions)
    if target.is_file():
        return target
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise BackendUnavailableError("there is no C compiler (cc, gcc or clang) to build the event-driven kernel with")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
    except OSError as error:
        raise BackendUnavailableError(f"the event-driven kernel cannot be kept in {folder}: {error}") from error
    try:
        command = [*compiler.split(), *_FLAGS, *INSTRUCTIONS[instructions], str(SOURCE), "-o", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # nosec B603
        if done.returncode:
            raise BackendUnavailableError(
                f"{compiler} cannot build the event-driven kernel: {done.stderr.strip()[:500]}"
            )
        Path(name).chmod(0o755)
        # Whoever builds it at the same time writes the same.
        Path(name).replace(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailableError(f"{compiler} cannot build the event-driven kernel: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def find_or_build() -> Path:
    """Path of the best kernel for this processor.

    Raises
    ------
    BackendUnavailableError
        If there is none and none can be built.
    """
    # A kernel for fewer instructions that is there is worth less than one for more that can be built.
    problem: BackendUnavailableError | None = None
    for instructions in instructions_here():
        beside = BESIDE / file_name(instructions)
        if beside.is_file():
            return beside
        try:
            folder = cache_folder()
            path = build(instructions, folder)
        except (BackendUnavailableError, RuntimeError) as error:
            # RuntimeError is what Path.home() says of a user without one.
            problem = problem or BackendUnavailableError(str(error))
            continue
        _check_owner(folder, path)
        return path
    assert problem is not None
    raise problem


def _check_owner(*paths: Path) -> None:
    """What others may write is not loaded."""
    for path in paths:
        found = path.stat()
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BackendUnavailableError(
                f"{path} belongs to somebody else, or others may write to it; it is not loaded"
            )


class Kernel:
    """The functions of the library, with their types; calls release the GIL."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        pointer, i32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64

        def function(name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
            found = getattr(library, f"spikeseg_{name}")
            found.argtypes, found.restype = arguments, result
            return found  # type: ignore[no-any-return]

        self.step = function("step", i32, pointer, *(i32,) * 3, pointer, pointer, i32, i32, pointer)
        self.list_spikes = function("list_spikes", i64, pointer, i32, i32, i32, pointer, pointer)
        self.unlist_spikes = function("unlist_spikes", None, pointer, pointer, i32, i32, i32, pointer)
        self.pack_input = function("pack_input", i64, pointer, i32, i32, i32, i32, pointer, pointer, i64)
        self.count_events = function(
            "count_events", i64, *(pointer,) * 3, i64, *(i32,) * 5, ctypes.c_float, pointer, pointer, i64
        )
        self.shuffle = function("shuffle", None, pointer, i32, i32, i32, i32, i32, pointer)
        self.mask = function("mask", i32, pointer, i32, i32, i32, i32, i32, i32, pointer)
        self.sizes = function("abi", i32)()


_loading = Lock()


@lru_cache(maxsize=1)
def _load() -> Kernel:
    path = find_or_build()
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


def build_all(folder: Path, names: Iterable[str] = INSTRUCTIONS) -> list[Path]:
    """Build the kernel for several kinds of processors, for an image that is to run on any of them.

    Raises
    ------
    BackendUnavailableError
        If one cannot be built, or the folder cannot be made.
    """
    # Whoever runs the image is another user than who builds it.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    except OSError as error:
        raise BackendUnavailableError(f"the event-driven kernel cannot be kept in {folder}: {error}") from error
    return [build(name, folder) for name in names]
