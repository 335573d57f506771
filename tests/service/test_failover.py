"""Streams outlive what serves them: replicas that are killed or told to stop, and a Redis that goes away."""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice

import httpx
import pytest
import redis as redis_client

from clients import Client
from clients.options import StreamOptions
from models.events import EventBatch
from service.streaming.checkpoints import decode_checkpoint
from service.wire.events import MEDIA_TYPE, encode_packet
from service.wire.messages import RESULTS_MEDIA_TYPE, decode_messages
from tests.service import harness
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, HttpSession, RefusedError, Stream, hello, random_events
from tests.service.real_servers import find_program
from tests.service.replicas import HAPROXY_CONFIG, LongStream, Replicas, get, result_key, running_replicas, wait_until

PACE_S = 0.15
PER_WINDOW = 300


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(tmp_path_factory.mktemp("replicas"), checkpoint_seconds=0.3, max_sessions=1000) as replicas:
        yield replicas
        assert "Traceback" not in replicas.logs(), replicas.logs()


@pytest.fixture
def replicas(running: Replicas) -> Replicas:
    """All of them serve, and Redis does."""
    running.wait_all_ready()
    return running


@dataclass(frozen=True)
class Kind:
    """A kind of stream.

    Attributes
    ----------
    options : StreamOptions
    window_us : int or None
    pauses : bool
        Whether there are windows without events.
    shuffled : bool
        Whether events are out of order.
    """

    options: StreamOptions = field(default_factory=StreamOptions)
    window_us: int | None = WINDOW_US
    pauses: bool = False
    shuffled: bool = False

    def pieces(self, seed: int) -> Iterator[EventBatch]:
        """Events without end, one window's at a time."""
        for k in count():
            if self.pauses and k % 7 in (3, 4):
                continue
            piece = random_events(1000 * seed + k, windows=1, per_window=PER_WINDOW, start_us=k * WINDOW_US)
            half = len(piece) // 2
            yield EventBatch.concatenate([piece[half:], piece[:half]]) if self.shuffled else piece


KINDS = {
    "windows of time": Kind(),
    "overlapping windows": Kind(StreamOptions(stride_us=WINDOW_US // 2)),
    "windows of so many events": Kind(StreamOptions(window_events=PER_WINDOW), window_us=None),
    "out of order, with pauses": Kind(StreamOptions(gaps="leak", reorder_us=WINDOW_US), pauses=True, shuffled=True),
    "noise filtered": Kind(StreamOptions(filter_background_us=9_000, filter_refractory_us=50_000, filter_hot=True)),
}


def long_stream(kind: Kind, seed: int) -> LongStream:
    return LongStream(partial(kind.pieces, seed), SENSOR, window_us=kind.window_us, options=kind.options, pace_s=PACE_S)


def check(stream: LongStream, url: str) -> None:
    """Every window has come once, as in a stream that nothing happens to."""
    expected = stream.expected(url)
    assert [result.window for result in stream.results] == [result.window for result in expected]
    pairs = zip(stream.results, expected, strict=True)
    differ = [a.window for a, b in pairs if result_key(a) != result_key(b)]
    assert not differ, f"of {len(expected)} windows, {differ} are not those of a stream that nothing happens to"


class Busy:
    """Long streams and other callers, in threads of their own."""

    def __init__(self, streams: list[LongStream], futures: list[Future[None]], stop: threading.Event) -> None:
        self.streams = streams
        self._futures = futures
        self._stop = stop

    def wait_for_progress(self) -> None:
        """Return once every stream has some more results."""
        before = [len(stream.results) for stream in self.streams]

        def moved() -> bool:
            for future in self._futures:
                if future.done():
                    future.result()
            return all(len(s.results) >= n + 5 for s, n in zip(self.streams, before, strict=True))

        wait_until(moved, "all streams go on")

    def finish(self) -> None:
        """Have all of them end; what any of them raises is raised."""
        self._stop.set()
        for stream in self.streams:
            stream.end()
        for future in self._futures:
            future.result(PATIENCE_S)


@contextlib.contextmanager
def streaming(
    url: str, kinds: Iterable[Kind], others: Iterable[Callable[[str, threading.Event], None]] = ()
) -> Iterator[Busy]:
    """Run streams, and callers who go on until the event is set; they have ended well afterwards."""
    streams = [long_stream(kind, seed) for seed, kind in enumerate(kinds, 1)]
    callers, stop = list(others), threading.Event()
    with ThreadPoolExecutor(len(streams) + len(callers)) as pool:
        futures = [pool.submit(stream.run, url) for stream in streams]
        futures += [pool.submit(caller, url, stop) for caller in callers]
        busy = Busy(streams, futures, stop)
        try:
            busy.wait_for_progress()
            yield busy
        finally:
            busy.finish()


def holder(replicas: Replicas) -> int:
    """The replica that holds most connections."""
    wait_until(lambda: replicas.which() >= 0, "a replica holds a connection")
    return replicas.which()


def lose_redis(replicas: Replicas) -> None:
    """Kill Redis; return once the replicas know."""
    replicas.kill_redis()
    wait_until(lambda: not any(replicas.stores()), "the replicas miss Redis")


def send_slowly(stream: Stream, pieces: Iterable[EventBatch]) -> list[harness.Result]:
    """Send one after the other, for longer than it takes until a checkpoint is due."""
    results: list[harness.Result] = []
    for piece in pieces:
        results += stream.events(piece)
        time.sleep(PACE_S)
    return results


def new_session() -> str:
    return secrets.token_urlsafe(16)


def test_the_configuration_is_taken_as_it_is_shipped() -> None:
    program = find_program("haproxy", package="haproxy")
    check = subprocess.run([program, "-c", "-f", HAPROXY_CONFIG], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    assert "WARNING" not in check.stderr


def test_a_session_stays_with_its_replica(replicas: Replicas) -> None:
    """Over HTTP and the WebSocket, it is the same replica; sessions are spread over all."""
    before = [replica.metric("spikeseg_sessions_taken_over_total") for replica in replicas]
    served = [replica.metric("spikeseg_windows_total") for replica in replicas]
    piece = random_events(1, windows=1, per_window=PER_WINDOW)
    for _ in range(12):
        id = new_session()
        with httpx.Client(base_url=replicas.url, params={"session": id}, timeout=PATIENCE_S) as http:
            session = HttpSession(http)
            assert session.fields["session"] == id
            session.events(piece)
            with Stream(
                replicas.url, {"type": "hello", "version": 1, "resume": session.fields["resume"]}, session=id
            ) as stream:
                stream.flush()
            assert session.state()["next_window"] == 1
    assert [replica.metric("spikeseg_sessions_taken_over_total") for replica in replicas] == before
    now = [replica.metric("spikeseg_windows_total") for replica in replicas]
    assert all(a > b for a, b in zip(now, served, strict=True)), "one replica has had no session"


@pytest.mark.parametrize("header", ["sequence-1", "sequence-2", None])
def test_the_open_inference_protocol_names_its_sequence_in_a_header(replicas: Replicas, header: str | None) -> None:
    before = replicas.requests()
    with httpx.Client(base_url=replicas.url, timeout=PATIENCE_S) as http:
        for _ in range(6):
            http.post("/v2/models/edge-s/infer", headers={} if header is None else {"Spikeseg-Session": header})
    used = [now - then for now, then in zip(replicas.requests(), before, strict=True)]
    assert sum(used) == 6
    assert (min(used) == 0) == (header is not None)


def test_the_metrics_of_one_replica_among_many_are_not_for_callers(replicas: Replicas) -> None:
    assert get(f"{replicas.url}/metrics").status_code == 404


def test_kill_9_loses_nothing_and_repeats_nothing(replicas: Replicas) -> None:
    rng = random.Random(1)
    sessions = [NumberedSession(seed, named=True) for seed in range(2)]
    with streaming(replicas.url, KINDS.values(), [session.run for session in sessions]) as busy:
        for _ in range(3):
            time.sleep(rng.uniform(0.0, 1.0))
            victim = holder(replicas)
            replicas.kill(victim)
            replicas.start(victim)
            busy.wait_for_progress()
            replicas.wait_ready(victim)
    for stream in busy.streams:
        assert stream.reconnects >= 2
        check(stream, replicas[0].url)
    for session in sessions:
        session.check(replicas[0].url)


def test_a_replica_that_is_told_to_stop_is_missed_by_nobody(replicas: Replicas) -> None:
    sessions = [NumberedSession(seed, named=seed % 2 == 0) for seed in range(4)]
    others = [*(session.run for session in sessions), segment_again_and_again, open_again_and_again]
    with streaming(replicas.url, KINDS.values(), others) as busy:
        for index in (0, 1):
            replicas.terminate(index)
            busy.wait_for_progress()
            replicas.start(index)
            replicas.wait_ready(index)
    for stream in busy.streams:
        assert stream.reconnects >= 1
        check(stream, replicas[0].url)
    for session in sessions:
        session.check(replicas[0].url)


class NumberedSession:
    """A session over HTTP, whose requests have numbers."""

    def __init__(self, seed: int, *, named: bool) -> None:
        self._seed = seed
        self._named = named
        self._results: list[harness.Result] = []
        self._pieces = 0

    def run(self, url: str, stop: threading.Event) -> None:
        """Post window after window; every answer must be a good one."""
        params = {"session": new_session()} if self._named else {}
        with httpx.Client(base_url=url, params=params, timeout=PATIENCE_S) as http:
            session = HttpSession(http)
            for piece in self._events():
                self._pieces += 1
                self._results += session.events(piece, sequence=self._pieces)
                if stop.wait(PACE_S):
                    return

    def check(self, url: str) -> None:
        """The results are those of a session that nothing happens to."""
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
            session = HttpSession(http)
            expected = [r for piece in islice(self._events(), self._pieces) for r in session.events(piece)]
        assert harness.same(self._results, expected)

    def _events(self) -> Iterator[EventBatch]:
        return Kind().pieces(100 + self._seed)


def segment_again_and_again(url: str, stop: threading.Event) -> None:
    """Ask for single masks."""
    piece = random_events(5, windows=1, per_window=PER_WINDOW)
    with Client(url, timeout=PATIENCE_S) as client:
        expected = client.segment(piece, SENSOR)
        while not stop.wait(PACE_S):
            assert client.segment(piece, SENSOR).mask.tobytes() == expected.mask.tobytes()


def open_again_and_again(url: str, stop: threading.Event) -> None:
    """Open short streams."""
    piece = random_events(6, windows=3, per_window=PER_WINDOW)
    with Client(url, timeout=PATIENCE_S) as client:
        while not stop.wait(PACE_S):
            assert [result.window for result in client.stream([piece], SENSOR, window_us=WINDOW_US)] == [0, 1, 2]


def test_a_request_that_is_under_way_when_its_replica_is_told_to_stop(replicas: Replicas) -> None:
    """Its body is still arriving."""
    events = random_events(7, windows=2, per_window=20_000)
    body = encode_packet(events, SENSOR)
    arriving, told = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        # So much that HAProxy passes it on before all of it is there.
        yield body[:-1000]
        arriving.set()
        assert told.wait(PATIENCE_S)
        yield body[-1000:]

    def stops_listening() -> None:
        wait_until(lambda: not listens(replicas[holding].url), "the replica takes nothing new")
        told.set()

    id = new_session()
    with httpx.Client(base_url=replicas.url, params={"session": id}, timeout=PATIENCE_S) as http:
        before = replicas.requests()
        session = HttpSession(http)
        holding = [now > then for now, then in zip(replicas.requests(), before, strict=True)].index(True)

        def post(content: Iterator[bytes]) -> httpx.Response:
            return http.post(
                f"{session.path}/events",
                params={"sequence": 1, "until_us": 2 * WINDOW_US},
                content=content,
                headers={"Content-Type": MEDIA_TYPE, "Accept": RESULTS_MEDIA_TYPE},
            )

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(post, slowly())
            assert arriving.wait(PATIENCE_S)
            time.sleep(0.2)  # Until it is on its way to the replica, too.
            replicas[holding].terminate(stops_listening)
            response = future.result(PATIENCE_S)
        assert response.status_code == 200, response.text
        results = [harness.read_result(message.payload) for message in decode_messages(response.content)]
        assert session.state()["next_sequence"] == 2
    assert harness.same(results, harness.one_connection(replicas[1 - holding].url, events, 2 * WINDOW_US))


def listens(url: str) -> bool:
    try:
        get(f"{url}/v2/health/live")
    except httpx.ConnectError:
        return False
    return True


@pytest.mark.parametrize("memory", ["kept", "lost"])
def test_redis_goes_and_comes_back(replicas: Replicas, memory: str) -> None:
    id, pieces = new_session(), Kind().pieces(50)
    with streaming(replicas.url, [KINDS["windows of time"], KINDS["out of order, with pauses"]]) as busy:
        with Stream(replicas.url, hello(), session=id) as stream:
            results = stream.events(next(pieces))
            lose_redis(replicas)
            for replica in replicas:
                health = replica.health()
                assert health["ready"] is True
                assert (health["store"]["kind"], health["store"]["available"]) == ("durable", False)
                assert "cannot be used" in health["store"]["problem"]
                assert replica.metric("spikeseg_state_store_up") == 0
            busy.wait_for_progress()
            results += stream.events(next(pieces))
            acked = stream.acked
            for _ in range(3):
                results += stream.events(next(pieces))
            assert stream.acked == acked, "nothing can be kept"
            replicas.start_redis(empty=memory == "lost")
            wait_until(lambda: all(replicas.stores()), "the replicas find Redis again")
            assert all(replica.metric("spikeseg_state_store_up") == 1 for replica in replicas)
            last = stream.sequence - 1
            while stream.acked < last:
                results += stream.events(next(pieces))
            token = stream.token
        busy.wait_for_progress()
        victim = holder(replicas)
        replicas.kill(victim)
        busy.wait_for_progress()
        with Stream(replicas.url, {"type": "hello", "version": 1, "resume": token}, session=id) as stream:
            assert stream.sequence > last
            kept = stream.sequence - 1
            for piece in islice(Kind().pieces(50), kept, kept + 10):
                results += stream.events(piece)
    assert any(long.reconnects for long in busy.streams)
    for long in busy.streams:
        check(long, replicas[1 - victim].url)
    with Stream(replicas[1 - victim].url, hello()) as stream:
        expected = [r for piece in islice(Kind().pieces(50), kept + 10) for r in stream.events(piece)]
    assert {r.window: r for r in results} == {r.window: r for r in expected}


@pytest.mark.parametrize("messages", [0, 1])
def test_a_session_that_is_opened_without_redis_is_kept_once_it_is_back(replicas: Replicas, messages: int) -> None:
    id, pieces = new_session(), list(islice(Kind().pieces(60), 6))
    lose_redis(replicas)
    with Stream(replicas.url, hello(), session=id) as stream:
        assert stream.acked == 0
        results = [result for piece in pieces[:messages] for result in stream.events(piece)]
        token = stream.token
        replicas.start_redis()
        wait_until(lambda: in_redis(replicas, id), "the session comes into Redis", patience_s=20)
        victim = holder(replicas)
        replicas.kill(victim)
    with Stream(replicas.url, {"type": "hello", "version": 1, "resume": token}, session=id) as stream:
        assert stream.sequence == messages + 1
        results += [result for piece in pieces[messages:] for result in stream.events(piece)]
    with Stream(replicas[1 - victim].url, hello()) as stream:
        assert harness.same(results, [result for piece in pieces for result in stream.events(piece)])


def test_a_session_that_is_deleted_without_redis_stays_deleted(replicas: Replicas) -> None:
    id = new_session()
    with httpx.Client(base_url=replicas.url, params={"session": id}, timeout=PATIENCE_S) as http:
        session = HttpSession(http)
        session.events(next(Kind().pieces(62)))
        assert checkpointed(replicas, id)
        replicas.kill_redis()
        assert http.delete(session.path).status_code == 204
        assert http.get(session.path).status_code == 404
        replicas.start_redis()
        wait_until(lambda: not checkpointed(replicas, id), "Redis forgets the session", patience_s=20)
        assert http.get(session.path).status_code == 404
        resume = {"type": "hello", "version": 1, "resume": session.fields["resume"]}
        with pytest.raises(RefusedError) as refused, Stream(replicas.url, resume, session=id):
            pass
        assert refused.value.code == 4404


def test_a_silent_session_comes_into_a_redis_that_has_forgotten_it(replicas: Replicas) -> None:
    pieces = list(islice(Kind().pieces(65), 4))
    with Stream(replicas.url, hello(), session=new_session()) as stream:
        results = stream.events(pieces[0])
        id = stream.welcome["session"]
        wait_until(lambda: stored(replicas, id)[1] == 2, "the first message is in Redis")
        lose_redis(replicas)
        replicas.start_redis(empty=True)
        wait_until(lambda: in_redis(replicas, id), "the session comes into Redis again", patience_s=20)
        victim = holder(replicas)
        replicas.kill(victim)
        token = stream.token
    with Stream.resume(replicas.url, token) as stream:
        results += [result for piece in pieces[1:] for result in stream.events(piece)]
    with Stream(replicas[1 - victim].url, hello()) as stream:
        assert harness.same(results, [result for piece in pieces for result in stream.events(piece)])


def test_a_replica_that_dies_while_redis_is_away(replicas: Replicas) -> None:
    """Nobody else has its sessions then; their clients must be told to ask again, not that there are none."""
    with streaming(replicas.url, [KINDS["windows of time"]]) as busy:
        victim = holder(replicas)
        lose_redis(replicas)
        replicas.kill(victim)
        time.sleep(1.0)  # The client asks in vain.
        replicas.start_redis()
        busy.wait_for_progress()
    assert busy.streams[0].reconnects >= 1
    check(busy.streams[0], replicas[1 - victim].url)


def test_whoever_looks_at_a_session_does_not_take_it_away(replicas: Replicas) -> None:
    """By another replica than the one that has it, as when the one that it belongs to has just come back."""
    pieces = list(islice(Kind().pieces(70), 20))
    with Stream(replicas[0].url, hello()) as stream:
        results = stream.events(pieces[0])
        id = stream.welcome["session"]
        assert get(f"{replicas[1].url}/v1/sessions/{id}").json()["session"] == id
        assert get(f"{replicas[1].url}/v1/sessions/{id}/state").status_code == 200
        assert stored(replicas, id)[0] == 1
        results += send_slowly(stream, pieces[1:])
    with Stream(replicas[1].url, hello()) as stream:
        assert harness.same(results, [result for piece in pieces for result in stream.events(piece)])


def test_whoever_lost_a_session_can_never_write_again(replicas: Replicas) -> None:
    pieces = list(islice(Kind().pieces(80), 10))
    with Stream(replicas[0].url, hello()) as old:
        old.events(pieces[0])
        id = old.welcome["session"]
        wait_until(lambda: stored(replicas, id)[1] == 2, "the first message is in Redis")
        with Stream.resume(replicas[1].url, old.token) as new:
            assert new.sequence == 2
            new.events(pieces[1])
            refusal = refusal_of(old, pieces[1])
            assert refusal.code == 4409
            assert (refusal.problem or {})["problem"] == "urn:spikeseg:problem:session-moved"
            for piece in pieces[2:]:
                new.events(piece)
            wait_until(lambda: stored(replicas, id) == (2, 11), "the new holder's messages are in Redis")


def test_a_replica_that_wakes_up_too_late(replicas: Replicas) -> None:
    """It was stopped for so long that another one took its streams; what it still wants to write is refused."""
    stream = long_stream(Kind(), 90)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stream.run, replicas.url, timeout=2.0)
        wait_until(lambda: len(stream.results) >= 5, "the stream begins")
        frozen = holder(replicas)
        replicas[frozen].freeze()
        try:
            wait_until(lambda: stream.reconnects >= 1 or future.done(), "the stream moves")
        finally:
            replicas[frozen].thaw()
        states: list[tuple[int, int]] = []
        results = len(stream.results)

        def goes_on() -> bool:
            states.append(stored(replicas, stream.session))
            return len(stream.results) >= results + 20 or future.done()

        wait_until(goes_on, "the stream goes on")
        assert states[0][0] >= 2
        assert states == sorted(states), "nothing has been written over"
        stream.end()
        future.result(PATIENCE_S)
    replicas.wait_ready(frozen)
    check(stream, replicas[0].url)


def refusal_of(stream: Stream, piece: EventBatch) -> RefusedError:
    """Why a message, or the checkpoint after it, is the last thing that a connection can do."""
    try:
        stream.events(piece)
    except RefusedError as refused:
        return refused
    return stream.refusal()


def in_redis(replicas: Replicas, id: str) -> bool:
    with redis_client.Redis.from_url(replicas.redis_url) as raw:
        return bool(raw.exists(f"spikeseg:{id}"))


def checkpointed(replicas: Replicas, id: str) -> bool:
    """Whether Redis has more of a session than its epoch, which outlives it."""
    with redis_client.Redis.from_url(replicas.redis_url) as raw:
        return bool(raw.hexists(f"spikeseg:{id}", "data"))


def stored(replicas: Replicas, id: str) -> tuple[int, int]:
    """A session's epoch in Redis, and the number of the message that comes next."""
    with redis_client.Redis.from_url(replicas.redis_url) as raw:
        epoch, data = raw.hmget(f"spikeseg:{id}", "epoch", "data")
    assert epoch is not None
    assert data is not None
    return int(epoch), int(decode_checkpoint(data).header["next_sequence"])
