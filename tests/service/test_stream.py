"""The WebSocket: state carried across windows, messages and connections, bit for bit."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from models.events import EventBatch, SensorSize
from service.wire import messages
from service.wire.events import encode_packet
from service.wire.messages import MessageType
from tests.service.harness import (
    SENSOR,
    WINDOW_US,
    HttpSession,
    RefusedError,
    Result,
    Stream,
    hello,
    make_events,
    one_connection,
    problem_of,
    random_events,
    read_result,
    same,
    split,
)

WINDOWS = 4
END_US = WINDOWS * WINDOW_US


@pytest.fixture(scope="module")
def events() -> EventBatch:
    return random_events(1, windows=WINDOWS)


@pytest.fixture(scope="module")
def reference(server: str, events: EventBatch) -> list[Result]:
    """The answers to the events sent at once over one connection."""
    return one_connection(server, events, END_US)


def test_welcome_tells_everything_that_a_client_needs(server: str) -> None:
    with Stream(server, hello(model="edge-s", mask="png", metrics=False)) as stream:
        welcome = stream.welcome
    assert welcome["type"] == "welcome"
    assert welcome["version"] == 1
    assert welcome["model"] == "edge-s"
    assert welcome["sensor"] == {"width": SENSOR.width, "height": SENSOR.height}
    assert welcome["window"] == {"us": WINDOW_US}
    assert (welcome["mask"], welcome["metrics"], welcome["unlabelled"]) == ("png", False, 255)
    assert (welcome["next_sequence"], welcome["next_window"]) == (1, 0)
    assert [c["id"] for c in welcome["classes"]] == list(range(6))
    assert all(len(c["color"]) == 3 and c["name"] for c in welcome["classes"])
    assert welcome["max_message_bytes"] > 0
    assert welcome["session"]
    assert welcome["resume"] != welcome["session"]


def test_defaults_of_the_hello(server: str) -> None:
    with Stream(server, {"type": "hello", "version": 1, "sensor": {"width": 64, "height": 48}}) as stream:
        assert stream.welcome["model"] == "edge-s"
        assert stream.welcome["mask"] == "zlib"
        assert stream.welcome["metrics"] is True
        assert stream.welcome["window"]["us"] > 0


def test_windows_are_numbered_and_complete(reference: list[Result], events: EventBatch) -> None:
    assert [r.window for r in reference] == list(range(WINDOWS))
    assert [(r.t_start, r.t_end) for r in reference] == [(k * WINDOW_US, (k + 1) * WINDOW_US) for k in range(WINDOWS)]
    assert sum(r.events for r in reference) == len(events)
    assert all(r.mask.shape == (SENSOR.height, SENSOR.width) for r in reference)
    assert all(r.activity is not None and r.activity["firing_rate"] > 0 for r in reference)


def test_metadata_of_a_result(reference: list[Result]) -> None:
    metadata = reference[1].metadata
    assert set(metadata) == {
        *("window", "t_start", "t_end", "events", "windows", "skipped", "mask", "activity", "latency_ms"),
        *("deadline_missed", "batch", "class_share", "acked"),
    }
    assert set(metadata["latency_ms"]) == {"decode", "wait", "compute", "encode", "total"}
    assert all(value >= 0 for value in metadata["latency_ms"].values())
    shares = [float((reference[1].mask == k).mean()) for k in range(6)]
    assert metadata["class_share"] == pytest.approx(shares, abs=1e-6)
    activity = metadata["activity"]
    assert set(activity) == {"layers", "firing_rate", "sops", "macs_ann", "energy_estimate_j"}
    assert set(activity["energy_estimate_j"]) == {"snn", "ann"}
    assert set(activity["layers"][0]) == {"name", "neurons", "spikes", "firing_rate", "sops"}
    assert activity["sops"] == pytest.approx(sum(layer["sops"] for layer in activity["layers"]))
    assert metadata["acked"] == 0


def test_state_is_carried_from_window_to_window(server: str, events: EventBatch, reference: list[Result]) -> None:
    """A window from rest differs from the same window after others: the membranes matter."""
    third = events[int(np.searchsorted(events.t, 2 * WINDOW_US)) : int(np.searchsorted(events.t, 3 * WINDOW_US))]
    alone = one_connection(server, third, 3 * WINDOW_US)[0]
    assert alone.events == reference[2].events
    assert alone.activity != reference[2].activity


@pytest.mark.parametrize("pieces", [2, 7, 50])
def test_any_cutting_into_messages_gives_the_same_masks(
    server: str, events: EventBatch, reference: list[Result], pieces: int
) -> None:
    cuts = np.random.default_rng(pieces).integers(0, len(events), pieces - 1).tolist()
    with Stream(server) as stream:
        results = [result for part in split(events, cuts) for result in stream.events(part)]
        results += stream.advance(END_US)
    assert same(results, reference)


def test_advances_between_messages_change_nothing(server: str, events: EventBatch, reference: list[Result]) -> None:
    cut = int(np.searchsorted(events.t, WINDOW_US + WINDOW_US // 2))
    with Stream(server) as stream:
        results = stream.events(events[:cut])
        results += stream.advance(int(events.t[cut - 1]))
        results += stream.advance(0)
        results += stream.events(events[cut:])
        results += stream.advance(END_US - 1)
        assert [r.window for r in results] == [0, 1, 2]
        results += stream.advance(END_US)
    assert same(results, reference)


def test_messages_in_flight_are_answered_in_order(server: str, events: EventBatch, reference: list[Result]) -> None:
    """A client need not wait for an answer before it sends the next message."""
    parts = split(events, [1000, 2000, 4000])
    with Stream(server) as stream:
        for number, part in enumerate(parts, 1):
            stream.socket.send(messages.encode_events(number, encode_packet(part, SENSOR)))
        stream.socket.send(messages.encode_advance(len(parts) + 1, END_US))
        results = [result for number in range(1, len(parts) + 2) for result in stream.answer(number)]
    assert same(results, reference)


def test_windows_without_events_are_answered_and_leak(server: str, events: EventBatch) -> None:
    with Stream(server) as stream:
        busy = stream.events(events) + stream.advance(END_US)
        silent = stream.advance(END_US + 5 * WINDOW_US)
    assert [r.window for r in silent] == list(range(WINDOWS, WINDOWS + 5))
    assert all(r.events == 0 for r in silent)
    assert busy[-1].activity is not None
    assert silent[-1].activity is not None
    assert silent[-1].activity["firing_rate"] < busy[-1].activity["firing_rate"]


def test_reset_gives_the_first_window_again(server: str, events: EventBatch, reference: list[Result]) -> None:
    with Stream(server) as stream:
        first = stream.events(events)
        assert stream.reset() == []
        again = stream.events(events) + stream.advance(END_US)
        assert stream.reset() == []
        other_clock = EventBatch(events.t + 7 * WINDOW_US, events.x, events.y, events.p)
        later = stream.events(other_clock) + stream.advance(END_US + 7 * WINDOW_US)
    assert same(first, reference[: len(first)])
    assert same(again, reference)
    assert [r.window for r in later] == list(range(WINDOWS))
    assert [r.mask.tobytes() for r in later] == [r.mask.tobytes() for r in reference]
    assert [r.activity for r in later] == [r.activity for r in reference]


def test_interleaved_sessions_never_touch_each_other(server: str, events: EventBatch, reference: list[Result]) -> None:
    others = random_events(2, windows=WINDOWS)
    other_reference = one_connection(server, others, END_US)
    with Stream(server) as left, Stream(server) as right:
        got: tuple[list[Result], list[Result]] = ([], [])
        for one, other in zip(split(events, range(500, 6000, 500)), split(others, range(500, 6000, 500)), strict=True):
            got[0].extend(left.events(one))
            got[1].extend(right.events(other))
        got[1].extend(right.advance(END_US))
        got[0].extend(left.advance(END_US))
    assert same(got[0], reference)
    assert same(got[1], other_reference)
    assert not same(got[0], got[1])


@pytest.mark.parametrize("politely", [True, False])
def test_resume_goes_on_where_the_connection_broke(
    server: str, events: EventBatch, reference: list[Result], politely: bool
) -> None:
    results: list[Result] = []
    token = None
    for part in split(events, [700, 2500, 2600, 5000]):
        stream = Stream(server) if token is None else Stream.resume(server, token)
        token = stream.token
        results += stream.events(part)
        if politely:
            stream.socket.close()
        else:
            stream.drop()
    assert token is not None
    with Stream.resume(server, token) as stream:
        assert stream.welcome["next_sequence"] == 6
        assert stream.welcome["next_window"] == len(results)
        results += stream.advance(END_US)
    assert same(results, reference)


def test_a_message_that_was_cut_off_is_sent_again(server: str, events: EventBatch, reference: list[Result]) -> None:
    """The connection breaks while many windows are computed: nothing of the message counts, or all of it."""
    stream = Stream(server)
    first = stream.events(events[:100])
    message = messages.encode_events(2, encode_packet(events[100:], SENSOR))
    stream.socket.send(message)
    early = stream.message()
    stream.drop()
    with Stream.resume(server, stream.token) as resumed:
        assert resumed.welcome["next_sequence"] in (2, 3)
        resumed.socket.send(message)
        results = first + resumed.answer(2)
        resumed.sequence = 3
        results += resumed.advance(END_US)
    assert same(results, reference)
    assert same([read_result(early.payload)], reference[:1])


@pytest.mark.parametrize("seed", range(6))
def test_connections_that_break_anywhere_lose_nothing(
    server: str, events: EventBatch, reference: list[Result], seed: int
) -> None:
    """A client that sends again what was not acknowledged gets every window, however often its connection breaks."""
    rng = np.random.default_rng(seed)
    parts = split(events, rng.integers(0, len(events), 12).tolist())
    unacknowledged = {
        number: messages.encode_events(number, encode_packet(part, SENSOR)) for number, part in enumerate(parts, 1)
    }
    unacknowledged[len(parts) + 1] = messages.encode_advance(len(parts) + 1, END_US)
    found: dict[int, Result] = {}
    token = None
    while unacknowledged:
        stream = Stream(server) if token is None else Stream.resume(server, token)
        token = stream.token
        for unsure in unacknowledged.values():
            stream.socket.send(unsure)
        for _ in range(rng.integers(1, 12)):
            if not unacknowledged:
                break
            message = stream.message()
            if message.type is MessageType.ACK:
                assert message.sequence == min(unacknowledged)
                del unacknowledged[message.sequence]
            else:
                result = read_result(message.payload)
                assert found.setdefault(result.window, result).key == result.key
        stream.drop()
    assert same([found[window] for window in sorted(found)], reference)


def test_the_server_answers_others_while_it_computes(server: str, http: httpx.Client) -> None:
    whole = SensorSize(346, 260)
    with Stream(server, hello(sensor={"width": 346, "height": 260})) as busy:
        busy.events(make_events((0, 0, 0, 1)), whole)
        busy.socket.send(messages.encode_advance(2, 100 * WINDOW_US))
        assert busy.message().sequence == 0
        assert http.get("/v2/health/live").json()["live"] is True
        assert http.get(f"/v1/sessions/{busy.welcome['session']}").json()["next_window"] == 0
        rest = busy.answer(2)
    assert [result.window for result in rest] == list(range(1, 100))


def test_answers_that_were_lost_with_a_connection_come_again(
    server: str, events: EventBatch, reference: list[Result]
) -> None:
    with Stream(server) as stream:
        lost = stream.events(events)
    with Stream.resume(server, stream.token) as resumed:
        assert resumed.sequence == 2
        resumed.socket.send(messages.encode_events(1, encode_packet(events, SENSOR)))
        again = resumed.answer(1)
        results = again + resumed.advance(END_US)
    assert same(lost, again)
    assert same(results, reference)


def test_duplicates_are_acknowledged_and_ignored(server: str, events: EventBatch, reference: list[Result]) -> None:
    parts = split(events, [2000, 4000])
    results = []
    with Stream(server) as stream:
        for number, part in enumerate(parts, 1):
            results += stream.events(part)
            for seen in range(1, number + 1):
                stream.socket.send(messages.encode_events(seen, encode_packet(parts[seen - 1], SENSOR)))
                assert stream.answer(seen) == []
        results += stream.advance(END_US)
    assert same(results, reference)


def test_end_answers_the_open_window_and_closes(server: str, events: EventBatch, reference: list[Result]) -> None:
    with Stream(server) as stream:
        results = stream.events(events) + stream.end()
        closed = stream.refusal()
    assert (closed.code, closed.problem) == (1000, None)
    assert same(results, reference)
    assert results[-1].window == WINDOWS - 1
    with Stream.resume(server, stream.token) as resumed:
        resumed.socket.send(messages.encode_end(2))
        assert same(resumed.answer(2), reference[-1:])
        assert resumed.refusal().code == 1000
    with Stream.resume(server, stream.token) as late:
        late.socket.send(messages.encode_reset(3))
        assert late.refusal().code == 4404


def test_end_of_an_empty_session(server: str) -> None:
    with Stream(server) as stream:
        assert stream.advance(5 * WINDOW_US) == []
        assert stream.end() == []
        assert stream.refusal().code == 1000


def test_the_newest_connection_gets_the_session(server: str, events: EventBatch, reference: list[Result]) -> None:
    """A client whose network went away must not wait until the server notices."""
    with Stream(server) as old:
        results = old.events(events[:3000])
        with Stream.resume(server, old.token) as new:
            refused = old.refusal()
            assert refused.code == 4409
            assert refused.problem is not None
            assert refused.problem["status"] == 409
            results += new.events(events[3000:]) + new.advance(END_US)
    assert same(results, reference)


@pytest.mark.parametrize("encoding", ["zlib", "raw", "png"])
def test_mask_encodings_hold_the_same_mask(
    server: str, events: EventBatch, reference: list[Result], encoding: str
) -> None:
    with Stream(server, hello(mask=encoding)) as stream:
        results = stream.events(events) + stream.advance(END_US)
    assert all(r.metadata["mask"]["encoding"] == encoding for r in results)
    assert same(results, reference)


def test_mask_encoding_can_change_on_resume(server: str, events: EventBatch, reference: list[Result]) -> None:
    with Stream(server) as stream:
        results = stream.events(events[:3000])
    with Stream.resume(server, stream.token, mask="png", metrics=False) as resumed:
        assert (resumed.welcome["mask"], resumed.welcome["metrics"]) == ("png", False)
        more = resumed.events(events[3000:]) + resumed.advance(END_US)
    assert [r.mask.tobytes() for r in results + more] == [r.mask.tobytes() for r in reference]
    assert all(r.activity is None and r.metadata["mask"]["encoding"] == "png" for r in more)


def test_first_window_is_the_one_that_holds_the_first_event(server: str) -> None:
    t = 1_700_000_000_000_000 + 5
    with Stream(server) as stream:
        (result,) = stream.events(make_events((t, 1, 2, 1), (t + WINDOW_US, 1, 2, 0)))
    assert result.window == 0
    assert result.t_start <= t < result.t_end
    assert result.t_start % WINDOW_US == 0


def test_a_camera_of_full_size(server: str) -> None:
    sensor = SensorSize(346, 260)
    events = random_events(3, windows=3, per_window=20_000, sensor=sensor)
    whole = {"width": sensor.width, "height": sensor.height}
    with Stream(server, hello(sensor=whole)) as stream:
        at_once = stream.events(events, sensor)
    with Stream(server, hello(sensor=whole)) as stream:
        in_parts = [r for part in split(events, [11_111, 33_333, 44_444]) for r in stream.events(part, sensor)]
    assert len(at_once) == 2
    assert at_once[0].mask.shape == (260, 346)
    assert same(at_once, in_parts)


def test_a_session_begun_over_http_goes_on_over_the_websocket(
    server: str, http: httpx.Client, events: EventBatch, reference: list[Result]
) -> None:
    session = HttpSession(http)
    results = session.events(events[:2500])
    with Stream.resume(server, session.fields["resume"]) as stream:
        assert stream.sequence == 2
        results += stream.events(events[2500:5000])
        for refused in (
            http.post(f"{session.path}/events", params={"until_us": END_US}),
            http.post(f"{session.path}/reset"),
            http.delete(session.path),
        ):
            problem_of(refused, 409)
        results += stream.events(events[5000:5001])
    results += session.events(events[5001:], until_us=END_US)
    assert same(results, reference)


def test_refused_carries_the_problem(server: str) -> None:
    with Stream(server) as stream, pytest.raises(RefusedError) as caught:
        stream.advance(-1)
    assert caught.value.code == 4422
    assert caught.value.problem is not None
    assert caught.value.problem["code"] == 4422
    assert caught.value.problem["status"] == 422
    assert caught.value.reason in caught.value.problem["detail"]
