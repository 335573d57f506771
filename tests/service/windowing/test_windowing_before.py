"""Windows of time without overlap are those that the service has always given."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ServiceError
from service.streaming import windows as before
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, WindowLimits
from tests.service.windowing.streams import at, rows_of

CALLS = st.one_of(
    st.tuples(st.just("push"), st.lists(st.integers(0, 90), max_size=6).map(sorted)),
    st.tuples(st.just("advance"), st.integers(-2, 120)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(CALLS, max_size=25), st.integers(0, 3))
def test_same_windows_and_same_errors(us: int, calls: list[tuple[str, object]], already: int) -> None:
    old = before.WindowStream(us, before.WindowLimits(windows=8, events=7))
    new = EventStream.start(StreamConfig(TimeWindows(us, us)), WindowLimits(windows=8, events=7))
    moved = 0
    for name, value in calls:
        found: list[object] = []
        if name == "restart":
            old, new, moved = old.restart(), new.restart(), 0
            continue
        for stream in (old, new):
            try:
                if name == "push":
                    windows, after = stream.push(at(*[moved + t for t in value]))  # type: ignore[attr-defined]
                elif name == "advance":
                    windows, after = stream.advance(moved + value, already=already)  # type: ignore[operator]
                else:
                    windows, after = stream.finish() if isinstance(stream, before.WindowStream) else stream.flush()
            except ServiceError as error:
                found.append((type(error), error.detail, error.errors))
                continue
            found.append([(w.index, w.t_start, w.t_end, rows_of(w.events)) for w in windows])
            if isinstance(after, before.WindowStream):
                old = after
            else:
                new = after
        assert found[0] == found[1]
        assert (old.index, old.horizon, old.nbytes) == (new.index, new.cutter.horizon, new.nbytes)
        moved = max(moved, old.horizon - 5)
