"""What a message is refused for, whichever way the stream is cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import FieldError, TimeJumpError, TimeOrderError, WindowOverflowError
from service.streaming.windowing.config import WindowLimits
from service.wire.events import MAX_TIME_US


def check_time(time_us: int, most: int = MAX_TIME_US) -> None:
    """Raise TimeOrderError unless the time lies between 0 and ``most``."""
    if not 0 <= time_us <= most:
        message = f"the time {time_us} µs is not between 0 and {most}"
        raise TimeOrderError(message, [FieldError("t", message)])


def check_times(t: NDArray[np.int64], most: int = MAX_TIME_US) -> None:
    """Raise TimeOrderError unless all times, of which there is one at least, lie between 0 and ``most``."""
    check_time(int(t.min()), most)
    check_time(int(t.max()), most)


def check_begins(first_us: int, horizon: int) -> None:
    """Raise TimeOrderError if a batch begins before what has been received."""
    if first_us < horizon:
        message = f"t[0] = {first_us} µs is earlier than {horizon} µs, up to where the stream has been received"
        raise TimeOrderError(message, [FieldError("t", message)])


def check_ordered(t: NDArray[np.int64]) -> None:
    """Raise TimeOrderError, naming the first event that is earlier than the one before it."""
    back = t[1:] < t[:-1]
    if back.any():
        at = int(back.argmax()) + 1
        message = f"t[{at}] = {t[at]} µs is earlier than t[{at - 1}] = {t[at - 1]} µs"
        raise TimeOrderError(message, [FieldError("t", message)])


def check_closed(closed: int, already: int, limits: WindowLimits, doing: str) -> None:
    """Raise TimeJumpError if a message closes too many windows; ``already`` of them were closed before."""
    if closed + already > limits.windows:
        message = (
            f"{doing} would close {closed + already} windows, at most {limits.windows} are taken at a time; "
            "send less at once, or reset the session if its clock has jumped"
        )
        raise TimeJumpError(message, [FieldError("t", message)])


def check_fullest(fullest: int, limits: WindowLimits) -> None:
    """Raise WindowOverflowError if the fullest window holds too many events."""
    if fullest > limits.events:
        raise WindowOverflowError(
            f"a window would hold {fullest} events, at most {limits.events} are taken; use shorter windows"
        )
