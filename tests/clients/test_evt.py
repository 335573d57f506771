"""Prophesee's encodings: what their own tools write, what cameras do to time, and bytes cut anywhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from expelliarmus import Wizard
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import RecordingError
from clients.sources.evt import (
    LARGEST_STEP_US,
    DatDecoder,
    Decoder,
    Evt2Decoder,
    Evt3Decoder,
    encode_dat,
    encode_evt2,
    encode_evt3,
    unwrap,
)
from models.events import EventBatch

KINDS = {"evt2": Evt2Decoder, "evt3": Evt3Decoder, "dat": DatDecoder}
ENCODERS = {
    "evt2": lambda events: encode_evt2(events)[0],
    "evt3": lambda events: encode_evt3(events)[0],
    "dat": encode_dat,
}


def assert_equal(found: EventBatch, wanted: EventBatch) -> None:
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def some_events(seed: int, n: int, *, longest_gap_us: int = 50, start_us: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        start_us + np.cumsum(rng.integers(0, longest_gap_us, n)),
        rng.integers(0, 640, n).astype(np.uint16),
        rng.integers(0, 480, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def in_pieces(decoder: Decoder, data: bytes, cuts: list[int]) -> EventBatch:
    """What a decoder makes of bytes that come in pieces."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    batches = [decoder.decode(data[a:b]) for a, b in pairwise(edges)]
    decoder.finish()
    return EventBatch.concatenate(batches)


def payload(path: Path) -> bytes:
    """The bytes of a file behind its text."""
    data = path.read_bytes()
    while data.startswith(b"%"):
        data = data[data.index(b"\n") + 1 :]
    return data


@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    gap=st.sampled_from([1, 50, 5000, 3_000_000]),
    cuts=st.lists(st.integers(0, 10**6), max_size=8),
)
def test_events_come_back_whatever_the_bytes_are_cut_into(
    kind: str, seed: int, n: int, gap: int, cuts: list[int]
) -> None:
    events = some_events(seed, n, longest_gap_us=gap)
    assert_equal(in_pieces(KINDS[kind](), ENCODERS[kind](events) if n else b"", cuts), events)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_files_that_expelliarmus_writes_are_read(kind: str, tmp_path: Path) -> None:
    events = some_events(1, 20_000)
    records = np.empty(len(events), [("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "u1")])
    for name in ("t", "x", "y", "p"):
        records[name] = getattr(events, name)
    wizard = Wizard(kind)
    # It takes the type that it reads, with its padding.
    path = tmp_path / f"events.{'dat' if kind == 'dat' else 'raw'}"
    wizard.save(path, records.astype(np.dtype({**wizard_dtype(), "itemsize": 16})))
    data = payload(path)
    assert_equal(KINDS[kind]().decode(data[2:] if kind == "dat" else data), events)


def wizard_dtype() -> dict[str, list[object]]:
    return {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12]}


@pytest.mark.parametrize(("kind", "version"), [("evt2", "2.0"), ("evt3", "3.0"), ("dat", "")])
def test_expelliarmus_reads_what_is_written(kind: str, version: str, tmp_path: Path) -> None:
    events = some_events(2, 20_000)
    path = tmp_path / f"events.{'dat' if kind == 'dat' else 'raw'}"
    head = (
        b"% Data file containing CD events.\n% Version 2\n\x0c\x08" if kind == "dat" else f"% evt {version}\n".encode()
    )
    path.write_bytes(head + ENCODERS[kind](events))
    records = Wizard(kind).read(path)
    # Of EVT3 it counts a round of TIME_LOW twice where TIME_HIGH tells of it too, as the specification wants.
    for name in ("x", "y", "p") if kind == "evt3" else ("t", "x", "y", "p"):
        np.testing.assert_array_equal(records[name], getattr(events, name), err_msg=name)


def words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def test_a_vector_word_holds_a_row_of_events_and_moves_its_base_on() -> None:
    decoder = Evt3Decoder()
    data = words(0x8001, 0x6005, 0x0000 | 7, 0x3000 | 0x800 | 100, 0x4000 | 0b1000_0000_0001, 0x5000 | 0b1000_0001)
    events = decoder.decode(data)
    assert events.x.tolist() == [100, 111, 112, 119]
    assert events.y.tolist() == [7] * 4
    assert events.p.tolist() == [1] * 4
    assert events.t.tolist() == [0x1005] * 4
    # The next piece goes on from the state that this one left.
    more = decoder.decode(words(0x5000 | 1, 0x2000 | 9))
    assert (more.x.tolist(), more.p.tolist(), more.y.tolist()) == ([120, 9], [1, 0], [7, 7])


def test_events_before_the_state_is_known_are_left_out() -> None:
    decoder = Evt3Decoder()
    assert len(decoder.decode(words(0x2000 | 5, 0x6001, 0x2000 | 5, 0x8000, 0x2000 | 5, 0x4FFF))) == 0
    assert decoder.decode(words(3, 0x2000 | 5)).x.tolist() == [5]
    old = Evt2Decoder()
    assert len(old.decode(np.array([0x10000000], "<u4").tobytes())) == 0


def test_a_lower_part_of_time_that_steps_back_is_no_round_of_the_clock() -> None:
    decoder = Evt3Decoder()
    start = words(0x8001, 0, 0x6000 | 100, 0x2001, 0x6000 | 90, 0x2002, 0x6000 | 110, 0x2003)
    assert decoder.decode(start).t.tolist() == [0x1000 + 100, 0x1000 + 100, 0x1000 + 110]
    assert decoder.stepped_back == 1
    # TIME_HIGH alone, repeated, is not time going back either; nor is one that is a little late.
    assert decoder.decode(words(0x8001, 0x2004, 0x8000, 0x6FFF, 0x2005)).t.tolist() == [0x1000 + 110] * 2
    assert decoder.stepped_back == 3


def test_a_lower_part_that_passes_its_end_counts_until_the_upper_part_comes() -> None:
    decoder = Evt3Decoder()
    assert decoder.decode(words(0x8001, 0, 0x6FFE, 0x2001, 0x6002)).t.tolist() == [0x1FFE]
    assert decoder.decode(words(0x2001, 0x6003)).t.tolist() == [0x2002]
    assert decoder.decode(words(0x2001, 0x8002, 0x6004, 0x2001)).t.tolist() == [0x2003, 0x2004]
    assert decoder.stepped_back == 0


def test_the_clock_of_24_bits_begins_anew() -> None:
    decoder = Evt3Decoder()
    data = words(0x8FFF, 0, 0x6FFF, 0x2001, 0x8000, 0x6000, 0x2001)
    assert decoder.decode(data).t.tolist() == [(1 << 24) - 1, 1 << 24]
    later = Evt2Decoder()
    raw = np.array([0x8FFFFFFF, 0x0FC00000, 0x80000000, 0x00000000], "<u4").tobytes()
    assert later.decode(raw).t.tolist() == [(1 << 34) - 1, 1 << 34]
    dat = DatDecoder()
    assert dat.decode(np.array([0xFFFFFFFF, 0, 0, 0], "<u4").tobytes()).t.tolist() == [(1 << 32) - 1, 1 << 32]


def test_time_that_steps_back_for_long_is_a_fault() -> None:
    decoder = DatDecoder()
    late = np.array([5 * LARGEST_STEP_US, 0, LARGEST_STEP_US, 0], "<u4").tobytes()
    with pytest.raises(RecordingError, match="times go back: an event of 1000000 µs comes after one of 5000000 µs"):
        decoder.decode(late)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bytes_that_end_within_a_word_are_a_fault(kind: str) -> None:
    decoder = KINDS[kind]()
    data = ENCODERS[kind](some_events(3, 10))
    decoder.decode(data[:-1])
    with pytest.raises(RecordingError, match="cut off"):
        decoder.finish()


def test_unwrapping() -> None:
    values = np.array([250, 255, 3, 1, 254, 2])
    assert unwrap(values, -1, 256).tolist() == [250, 255, 259, 257, 254, 258]
    assert unwrap(np.array([2]), 254, 256).tolist() == [258]
    assert unwrap(np.array([], np.int64), 254, 256).tolist() == []


def test_a_real_file_whose_upper_part_of_time_counts(recordings: Path) -> None:
    data = payload(recordings / "gen4_evt3_short.raw")
    decoder = Evt3Decoder()
    events = decoder.decode(data)
    assert len(events) == 5000
    theirs = Wizard("evt3").read(recordings / "gen4_evt3_short.raw")
    for name in ("x", "y", "p"):
        np.testing.assert_array_equal(getattr(events, name), theirs[name])
    # The other decoder counts each step back as a round of 4096 µs.
    assert int(theirs["t"][-1]) - int(events.t[-1]) > 4096
    assert int(events.t[-1]) - int(events.t[0]) < 50_000


def test_a_real_file_is_read_as_expelliarmus_reads_it(recordings: Path) -> None:
    for name, kind in (("gen3_evt2_0.05s.raw", "evt2"), ("cd_td.dat", "dat")):
        data = payload(recordings / name)
        events = in_pieces(KINDS[kind](), data[2:] if kind == "dat" else data, [1000, 77_777])
        theirs = Wizard(kind).read(recordings / name)
        for column in ("t", "x", "y", "p"):
            np.testing.assert_array_equal(getattr(events, column), theirs[column], err_msg=name)
