"""Prophesee's event encodings EVT2, EVT3 and DAT: bytes to events and back.

Words are little-endian. The layouts are those of Prophesee's documentation ("EVT 2.0 format", "EVT 3.0 format", "DAT
file format"). Decoders take bytes in pieces cut anywhere: what a word means depends on those before it, so they keep
that.

Times of these encodings step back now and then: a camera sends the lower part of a time a little late, or repeats the
upper part alone. The upper part, ``TIME_HIGH``, decides which round of the clock it is. Only where a ``TIME_LOW`` of
EVT3 falls by more than half of its range has a round passed whose ``TIME_HIGH`` is still to come, or was never written,
as by expelliarmus. A time that is earlier than the one before it is given as that one, so that times never fall. A step
back of more than ``LARGEST_STEP_US`` is a fault.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clients.errors import RecordingError
from models.events import EventBatch

LARGEST_STEP_US = 1_000_000

_Words = NDArray[np.int64]

# EVT3 word types.
_ADDR_Y, _ADDR_X, _VECT_BASE_X, _VECT_12, _VECT_8, _TIME_LOW, _TIME_HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
# Cameras repeat TIME_HIGH while nothing happens; a decoder tells a gap from a round of the clock by that.
_FILL_STEP = 1024


class Decoder(ABC):
    """Bytes of one stream to events.

    Attributes
    ----------
    stepped_back : int
        Events whose times were raised to that of the one before.
    """

    word: ClassVar[np.dtype[np.unsignedinteger]]

    def __init__(self) -> None:
        self.stepped_back = 0
        self._rest = b""
        self._latest = 0

    def decode(self, data: bytes) -> EventBatch:
        """The events that these bytes complete.

        Raises
        ------
        RecordingError
            If times step back further than any camera lets them.
        """
        data = self._rest + data
        whole = len(data) - len(data) % self.word.itemsize
        self._rest = data[whole:]
        words = np.frombuffer(data, self.word, whole // self.word.itemsize)
        return self._rising(self._events(words.astype(np.int64)))

    def finish(self) -> None:
        """There are no more bytes.

        Raises
        ------
        RecordingError
            If they end within a word.
        """
        if self._rest:
            raise RecordingError(f"the file is cut off: it ends {len(self._rest)} bytes into a word")

    @abstractmethod
    def _events(self, words: _Words) -> EventBatch: ...

    def _rising(self, events: EventBatch) -> EventBatch:
        if not len(events):
            return events
        before = np.maximum.accumulate(np.concatenate([[self._latest], events.t]))
        step = before[1:] - events.t
        if int(step.max()) > LARGEST_STEP_US:
            at = int(step.argmax())
            raise RecordingError(f"times go back: an event of {events.t[at]} µs comes after one of {before[at]} µs")
        self.stepped_back += int((step > 0).sum())
        self._latest = int(before[-1])
        return EventBatch(before[1:], events.x, events.y, events.p)


class Evt2Decoder(Decoder):
    """EVT 2.0: words of 32 bits; an event has 6 bits of its time, ``TIME_HIGH`` the upper 28."""

    word = np.dtype("<u4")

    def __init__(self) -> None:
        super().__init__()
        self._high = -1

    def _events(self, words: _Words) -> EventBatch:
        kind = words >> 28
        is_high = kind == 0x8
        high, self._high = _carried(unwrap(words[is_high] & 0x0FFFFFFF, self._high, 1 << 28), self._high)
        place = np.cumsum(is_high)
        # Events before the first TIME_HIGH have no time that could be known.
        cd = (kind <= 1) & (high[place] >= 0)
        words, time = words[cd], high[place[cd]]
        return _batch((time << 6) | (words >> 22 & 0x3F), words >> 11 & 0x7FF, words & 0x7FF, words >> 28)


class Evt3Decoder(Decoder):
    """EVT 3.0: words of 16 bits, each of which changes one part of the state: row, column, time.

    A vector word holds up to 12 neighbouring events of one row.
    """

    word = np.dtype("<u2")

    def __init__(self) -> None:
        super().__init__()
        self._high = -1
        self._low = 0
        self._rounds = 0
        self._time = -1
        self._row = -1
        self._base = -1
        self._base_polarity = 0

    def _events(self, words: _Words) -> EventBatch:
        kind, value = words >> 12, words & 0xFFF

        is_high, is_low = kind == _TIME_HIGH, kind == _TIME_LOW
        high, self._high = _carried(unwrap(value[is_high], self._high, 1 << 12), self._high)
        upper = high[np.cumsum(is_high)]
        is_time = is_high | is_low
        told = np.where(upper[is_time] >= 0, (upper[is_time] << 12) + self._lower(is_low[is_time], value[is_time]), -1)
        times, self._time = _carried(told, self._time)
        time = times[np.cumsum(is_time)]

        is_row = kind == _ADDR_Y
        rows, self._row = _carried(value[is_row] & 0x7FF, self._row)
        row = rows[np.cumsum(is_row)]

        # A vector word covers 12 or 8 columns from its base, and moves the base on by as many.
        width = np.select([kind == _VECT_12, kind == _VECT_8], [12, 8], 0)
        moved = np.cumsum(width) - width
        is_base = kind == _VECT_BASE_X
        place = np.cumsum(is_base)
        known = np.concatenate([[self._base >= 0], np.ones(int(is_base.sum()), bool)])[place]
        base = np.concatenate([[self._base], (value[is_base] & 0x7FF) - moved[is_base]])[place] + moved
        polarities, self._base_polarity = _carried(value[is_base] >> 11, self._base_polarity)
        polarity = polarities[place]
        if len(words) and known[-1]:
            self._base = int(base[-1] + width[-1])

        ready = (time >= 0) & (row >= 0)
        singles = np.flatnonzero((kind == _ADDR_X) & ready)
        vectors = np.flatnonzero((width > 0) & ready & known)
        bits = (np.where(kind == _VECT_8, value & 0xFF, value)[vectors, None] >> np.arange(12)) & 1
        which, column = np.nonzero(bits)
        at = np.concatenate([singles, vectors[which]])
        x = np.concatenate([value[singles] & 0x7FF, base[vectors[which]] + column])
        p = np.concatenate([value[singles] >> 11, polarity[vectors[which]]])
        order = np.argsort(at, kind="stable")
        at = at[order]
        return _batch(time[at], x[order], row[at], p[order])

    def _lower(self, is_low: NDArray[np.bool_], value: _Words) -> _Words:
        """What is added to the latest ``TIME_HIGH``: the lower part, 0 until it is told, and rounds passed since."""
        low = np.where(is_low, value, 0)
        before = np.concatenate([[self._low], low[:-1]])
        passed = np.cumsum(is_low & (before - low > 0x800))
        since = np.concatenate([[-self._rounds], passed[~is_low]])[np.cumsum(~is_low)]
        rounds = passed - since
        if len(low):
            self._low, self._rounds = int(low[-1]), int(rounds[-1])
        return np.asarray(low + (rounds << 12))


class DatDecoder(Decoder):
    """DAT: 8 bytes an event, the lower 32 bits of its time and a word of x (14 bits), y (14) and polarity (4)."""

    word = np.dtype("<u8")

    def __init__(self) -> None:
        super().__init__()
        self._last = -1

    def _events(self, words: _Words) -> EventBatch:
        time, data = words & 0xFFFFFFFF, words >> 32 & 0xFFFFFFFF
        t, self._last = _carried(unwrap(time, self._last, 1 << 32), self._last)
        return _batch(t[1:], data & 0x3FFF, data >> 14 & 0x3FFF, (data >> 28) & 0xF)


def unwrap(values: _Words, last: int, period: int) -> _Words:
    """Values of a clock that begins anew, as one that does not; small steps back stay steps back.

    Parameters
    ----------
    values : int64 array, (N,)
        Between 0 and ``period``.
    last : int
        What the last value before them was unwrapped to; -1 if there was none.
    period : int
        A step of less than half of it either way is taken as it is.

    Returns
    -------
    int64 array, (N,)
    """
    if not len(values):
        return values
    start = int(values[0]) if last < 0 else last
    before = np.concatenate([[start % period], values[:-1]])
    steps = (values - before + period // 2) % period - period // 2
    return start + np.cumsum(steps)


def encode_evt2(events: EventBatch, high: int | None = None) -> tuple[bytes, int | None]:
    """Events as EVT 2.0 words.

    Parameters
    ----------
    events : EventBatch
        Ordered by time, below 2**34 µs.
    high : int, optional
        The upper part of the time that was written last.

    Returns
    -------
    data : bytes
    high : int or None
        To go on from.
    """
    if not len(events):
        return b"", high
    upper = events.t >> 6
    words = np.empty((len(events), 2), np.uint32)
    words[:, 0] = 0x80000000 | (upper & 0x0FFFFFFF)
    cd = (events.p.astype(np.int64) << 28) | ((events.t & 0x3F) << 22) | (events.x.astype(np.int64) << 11) | events.y
    words[:, 1] = cd
    wanted = np.ones(words.shape, bool)
    wanted[:, 0] = np.concatenate([[high is None or upper[0] != high], upper[1:] != upper[:-1]])
    return words[wanted].astype("<u4").tobytes(), int(upper[-1])


def encode_evt3(events: EventBatch, last_us: int | None = None) -> tuple[bytes, int | None]:
    """Events as EVT 3.0 words, one event a word.

    Parameters
    ----------
    events : EventBatch
        Ordered by time. The encoding keeps times modulo 2**24 µs, and so only what passes between two events.
    last_us : int, optional
        Time of the event that was written last.

    Returns
    -------
    data : bytes
    last_us : int or None
        To go on from.
    """
    if not len(events):
        return b"", last_us
    t = events.t
    parts: list[NDArray[np.uint16]] = []
    # Where nothing happens for long, TIME_HIGH alone says that time goes on.
    before = np.concatenate([[t[0] if last_us is None else last_us], t[:-1]]) >> 12
    gaps = set(np.flatnonzero((t >> 12) - before > _FILL_STEP).tolist())
    starts = sorted({0} | gaps)
    for start, end in zip(starts, [*starts[1:], len(t)], strict=True):
        if start in gaps:
            fill = np.arange(int(before[start]) + _FILL_STEP, int(t[start] >> 12), _FILL_STEP)
            parts.append((0x8000 | (fill & 0xFFF)).astype(np.uint16))
        part = events[start:end]
        words = np.empty((len(part), 4), np.uint16)
        words[:, 0] = 0x8000 | (part.t >> 12 & 0xFFF)
        words[:, 1] = 0x6000 | (part.t & 0xFFF)
        words[:, 2] = part.y
        words[:, 3] = 0x2000 | (part.p.astype(np.uint16) << 11) | part.x
        # Each part begins with its whole state; TIME_HIGH sets the lower part to 0, so TIME_LOW follows it.
        wanted = np.ones(words.shape, bool)
        wanted[1:, 0] = part.t[1:] >> 12 != part.t[:-1] >> 12
        wanted[1:, 1] = (part.t[1:] != part.t[:-1]) | wanted[1:, 0]
        wanted[1:, 2] = part.y[1:] != part.y[:-1]
        parts.append(words[wanted])
    return np.concatenate(parts).astype("<u2").tobytes(), int(t[-1])


def encode_dat(events: EventBatch) -> bytes:
    """Events as DAT records; times modulo 2**32 µs."""
    records = np.empty((len(events), 2), "<u4")
    records[:, 0] = events.t & 0xFFFFFFFF
    polarity = events.p.astype(np.uint32) << 28
    records[:, 1] = polarity | (events.y.astype(np.uint32) << 14) | events.x
    return records.tobytes()


def _carried(values: _Words, last: int) -> tuple[_Words, int]:
    """The values with the one before them in front, and the last of all."""
    return np.concatenate([[last], values]).astype(np.int64), int(values[-1]) if len(values) else last


def _batch(t: _Words, x: _Words, y: _Words, p: _Words) -> EventBatch:
    return EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), (p > 0).astype(np.uint8))
