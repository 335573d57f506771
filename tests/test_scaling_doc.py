"""The sizing tables of docs/scaling.md are what a session takes."""

from __future__ import annotations

from benchmarks import sizing


def test_the_tables_are_those_of_the_benchmark() -> None:
    told = sizing.check()
    assert not told, "\n".join([*told, "write them anew: python -m benchmarks.sizing --json docs/results/sizing.json"])


def test_a_difference_is_found() -> None:
    written = sizing.read_report(sizing.REPORT)
    size = written["edge-s"]["DVS128"]
    more = sizing.Size(size.cells, size.state_bytes + 4, size.checkpoint_bytes, size.longest_checkpoint_bytes)
    less = sizing.Size(size.cells, size.state_bytes, size.checkpoint_bytes, round(0.9 * size.longest_checkpoint_bytes))
    for other in (more, less):
        changed = {**written, "edge-s": {**written["edge-s"], "DVS128": other}}
        (told,) = sizing.differences(written, changed)
        assert told.startswith("edge-s, DVS128: ")
    assert sizing.differences(written, {})
    assert not sizing.differences(written, written)
