"""Stores of sessions: one contract for all, and what only a real Redis can get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from service.streaming.checkpoints import Checkpoint, CheckpointError, encode_checkpoint
from service.streaming.redis_store import RedisStateStore
from service.streaming.state_store import (
    CorruptCheckpointError,
    FencedError,
    MemoryStateStore,
    SessionExistsError,
    StateStore,
    StoreUnavailableError,
)
from tests.service.real_servers import RedisProcess, free_port, running_haproxy, running_redis

LONG_S = 600.0
PATIENCE_S = 60.0
ID = "session-1"


@dataclass(frozen=True)
class Subject:
    """A store, and how to let time pass for it."""

    store: StateStore
    sleep: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis for the tests that leave it running."""
    with running_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def prefix() -> str:
    """A corner of that Redis for one test."""
    return f"{uuid.uuid4()}:"


@pytest.fixture(params=["memory", "redis"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each kind of store, empty."""
    if request.param == "memory":
        now = [0.0]

        async def pass_by(seconds: float) -> None:
            now[0] += seconds

        yield Subject(MemoryStateStore(lambda: now[0]), pass_by)
    else:
        url = request.getfixturevalue("server").url
        with open_store(url, prefix=request.getfixturevalue("prefix")) as store:
            yield Subject(store, asyncio.sleep)


@contextlib.contextmanager
def open_store(url: str, *, timeout_s: float = PATIENCE_S, **options: Any) -> Iterator[RedisStateStore]:
    """A store that is closed afterwards."""
    store = RedisStateStore(url, timeout_s=timeout_s, **options)
    try:
        yield store
    finally:
        asyncio.run(store.close())


def checkpoint(n: int = 0, **header: Any) -> Checkpoint:
    """A small checkpoint that can be told from others."""
    return Checkpoint({"n": n, **header}, {"membrane": np.full((2, 3), n, np.float32), "t": np.array([n])})


def check(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert found.header == expected.header
    assert encode_checkpoint(found) == encode_checkpoint(expected)


def test_a_session_lives(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        await store.ping()
        assert await store.peek(ID) is None
        assert await store.claim(ID) is None
        assert await store.create(ID, checkpoint(0), LONG_S) == 1
        check(await store.peek(ID), checkpoint(0))
        assert await store.owns(ID, 1)
        await store.save(ID, 1, checkpoint(1), LONG_S)
        await store.save(ID, 1, checkpoint(2), LONG_S)
        check(await store.peek(ID), checkpoint(2))
        await store.delete(ID, 1)
        assert await store.peek(ID) is None
        assert not await store.owns(ID, 1)

    asyncio.run(scenario())


def test_sessions_do_not_meet(subject: Subject) -> None:
    store = subject.store
    ids = ["a", "b", "", "a b", "a:epoch", "ä\n\0", "\ud800", "*"]

    async def scenario() -> None:
        for n, id in enumerate(ids):
            assert await store.create(id, checkpoint(n), LONG_S) == 1
        await store.claim("a")
        await store.delete("b", 1)
        assert await store.peek("b") is None
        for n, id in enumerate(ids):
            if id != "b":
                check(await store.peek(id), checkpoint(n))
                assert await store.owns(id, 2 if id == "a" else 1)

    asyncio.run(scenario())


def test_an_id_is_taken_once(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        await store.create(ID, checkpoint(0), LONG_S)
        await store.claim(ID)
        with pytest.raises(SessionExistsError, match=ID):
            await store.create(ID, checkpoint(1), LONG_S)
        check(await store.peek(ID), checkpoint(0))
        assert await store.owns(ID, 2)

    asyncio.run(scenario())


def test_a_claim_fences_the_holder_before(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        await store.create(ID, checkpoint(0), LONG_S)
        await store.save(ID, 1, checkpoint(1), LONG_S)
        for epoch in range(2, 5):
            claim = await store.claim(ID)
            assert claim is not None
            assert claim.epoch == epoch
            check(claim.checkpoint, checkpoint(epoch - 1))
            for earlier in range(epoch):
                assert not await store.owns(ID, earlier)
                with pytest.raises(FencedError, match=ID):
                    await store.save(ID, earlier, checkpoint(99), LONG_S)
                await store.delete(ID, earlier)
            await store.delete(ID, epoch + 1)
            check(await store.peek(ID), checkpoint(epoch - 1))
            assert await store.owns(ID, epoch)
            await store.save(ID, epoch, checkpoint(epoch), LONG_S)

    asyncio.run(scenario())


def test_what_was_deleted_is_fenced(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        await store.create(ID, checkpoint(), LONG_S)
        await store.delete(ID, 1)
        assert not await store.owns(ID, 1)
        with pytest.raises(FencedError):
            await store.save(ID, 1, checkpoint(), LONG_S)
        assert await store.peek(ID) is None
        assert await store.claim(ID) is None
        await store.delete(ID, 1)
        # The id can be used again; whoever held it before is no better off.
        assert await store.create(ID, checkpoint(1), LONG_S) == 2
        assert not await store.owns(ID, 1)
        with pytest.raises(FencedError):
            await store.save(ID, 1, checkpoint(), LONG_S)
        check(await store.peek(ID), checkpoint(1))

    asyncio.run(scenario())


def test_what_the_store_does_not_know_belongs_to_whoever_has_it(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        assert await store.owns(ID, 3)
        await store.save(ID, 3, checkpoint(3), LONG_S)
        assert not await store.owns(ID, 2)
        with pytest.raises(FencedError):
            await store.save(ID, 2, checkpoint(2), LONG_S)
        await store.save(ID, 4, checkpoint(4), LONG_S)
        with pytest.raises(FencedError):
            await store.save(ID, 3, checkpoint(3), LONG_S)
        check(await store.peek(ID), checkpoint(4))

    asyncio.run(scenario())


def test_a_session_is_forgotten_when_nobody_saves_it(subject: Subject) -> None:
    store = subject.store

    async def scenario() -> None:
        await store.create("left", checkpoint(), 1.5)
        await store.create("claimed", checkpoint(), 1.5)
        await store.create("saved", checkpoint(), 1.5)
        await store.create("shortened", checkpoint(), LONG_S)
        assert await store.peek("left") is not None
        assert await store.claim("claimed") is not None
        await store.save("saved", 1, checkpoint(1), LONG_S)
        await store.save("shortened", 1, checkpoint(1), 1.5)
        await subject.sleep(1.6)
        for id in ("left", "claimed", "shortened"):
            assert await store.claim(id) is None
            assert await store.peek(id) is None
        check(await store.peek("saved"), checkpoint(1))
        assert await store.create("left", checkpoint(), LONG_S) == 1

    asyncio.run(scenario())


def test_memory_keeps_references_and_tells_that_it_forgets() -> None:
    store, kept = MemoryStateStore(), checkpoint()

    async def scenario() -> None:
        await store.create(ID, kept, LONG_S)
        assert await store.peek(ID) is kept
        claim = await store.claim(ID)
        assert claim is not None
        assert claim.checkpoint is kept

    asyncio.run(scenario())
    assert not store.durable


def test_redis_outlives_the_client(server: RedisProcess, prefix: str) -> None:
    with open_store(server.url, prefix=prefix) as first, open_store(server.url, prefix=prefix) as second:
        assert first.durable
        asyncio.run(first.create(ID, checkpoint(5), LONG_S))
        check(asyncio.run(second.peek(ID)), checkpoint(5))
    with open_store(server.url, prefix=prefix) as third, open_store(server.url, prefix=prefix + "2") as other:
        claim = asyncio.run(third.claim(ID))
        assert claim is not None
        assert claim.epoch == 2
        assert asyncio.run(other.peek(ID)) is None


def test_redis_keeps_one_key_for_each_session(server: RedisProcess, prefix: str) -> None:
    with open_store(server.url, prefix=prefix) as store, redis.Redis.from_url(server.url) as raw:
        asyncio.run(store.create(ID, checkpoint(), LONG_S))
        asyncio.run(store.claim(ID))
        assert list(raw.scan_iter(f"{prefix}*")) == [f"{prefix}{ID}".encode()]
        assert 0 < raw.pttl(f"{prefix}{ID}") <= LONG_S * 1000


def test_ten_megabytes_come_back(server: RedisProcess, prefix: str) -> None:
    large = Checkpoint({"n": 1}, {"membrane": np.random.default_rng(0).random(2_500_000, np.float32)})
    with open_store(server.url, prefix=prefix) as store:

        async def scenario() -> None:
            await store.create(ID, checkpoint(), LONG_S)
            await store.save(ID, 1, large, LONG_S)
            claim = await store.claim(ID)
            assert claim is not None
            check(claim.checkpoint, large)

        asyncio.run(scenario())


def test_only_the_newest_epoch_ever_wins(server: RedisProcess, prefix: str) -> None:
    """Each claim reads what the holders before it saved last, and no word of them comes after."""
    saved: list[tuple[int, int]] = [(1, 0)]
    claims: list[tuple[int, tuple[int, int]]] = []
    lock = threading.Lock()
    start = threading.Barrier(4)

    def work(store: RedisStateStore) -> int:
        async def contend() -> int:
            refused = 0
            for _ in range(15):
                claim = await store.claim(ID)
                assert claim is not None
                with lock:
                    claims.append((claim.epoch, (claim.checkpoint.header["epoch"], claim.checkpoint.header["n"])))
                for n in range(5):
                    try:
                        await store.save(ID, claim.epoch, checkpoint(n, epoch=claim.epoch), LONG_S)
                    except FencedError:
                        refused += 1
                        break
                    with lock:
                        saved.append((claim.epoch, n))
            return refused

        start.wait(PATIENCE_S)
        return asyncio.run(contend())

    with open_store(server.url, prefix=prefix) as one, open_store(server.url, prefix=prefix) as other:
        asyncio.run(one.create(ID, checkpoint(0, epoch=1), LONG_S))
        with ThreadPoolExecutor(4) as pool:
            refused = sum(pool.map(work, [one, other, one, other]))
    assert sorted(epoch for epoch, _ in claims) == list(range(2, 62))
    assert refused > 0
    for epoch, found in claims:
        assert found == max(one for one in saved if one[0] < epoch)


class HeldBack(Mapping[str, NDArray[Any]]):
    """Arrays that come only when they are let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.zeros(1, np.uint8)

    def __iter__(self) -> Iterator[str]:
        self.asked.set()
        assert self.go.wait(PATIENCE_S)
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def test_a_save_that_is_given_up_does_not_undo_a_later_one(server: RedisProcess, prefix: str) -> None:
    late = HeldBack()
    with open_store(server.url, prefix=prefix) as observer:
        with open_store(server.url, prefix=prefix) as store:

            async def scenario() -> None:
                await store.create(ID, checkpoint(0), LONG_S)
                given_up = asyncio.create_task(store.save(ID, 1, Checkpoint({"n": 1}, late), LONG_S))
                await asyncio.to_thread(late.asked.wait, PATIENCE_S)
                given_up.cancel()
                await store.save(ID, 1, checkpoint(2), LONG_S)

            try:
                asyncio.run(scenario())
            finally:
                late.go.set()
        # The store is closed once all of its threads are done.
        check(asyncio.run(observer.peek(ID)), checkpoint(2))


def test_a_call_waits_no_longer_for_a_thread_than_for_redis(server: RedisProcess, prefix: str) -> None:
    late = HeldBack()
    with open_store(server.url, prefix=prefix, timeout_s=0.3, threads=1) as store:

        async def scenario() -> None:
            with pytest.raises(StoreUnavailableError, match=r"within 0\.3 s"):
                await store.create(ID, Checkpoint({}, late), LONG_S)
            with pytest.raises(StoreUnavailableError, match=r"within 0\.3 s"):
                await store.ping()

        try:
            asyncio.run(scenario())
        finally:
            late.go.set()


@pytest.mark.parametrize("spoil", [b"", b"no checkpoint", encode_checkpoint(checkpoint())[:-1]])
def test_what_is_spoiled_is_told(server: RedisProcess, prefix: str, spoil: bytes) -> None:
    with open_store(server.url, prefix=prefix) as store, redis.Redis.from_url(server.url) as raw:

        async def scenario() -> None:
            await store.create(ID, checkpoint(), LONG_S)
            raw.hset(f"{prefix}{ID}", "data", spoil)
            with pytest.raises(CorruptCheckpointError, match=ID):
                await store.peek(ID)
            with pytest.raises(CorruptCheckpointError, match=ID):
                await store.claim(ID)
            await store.save(ID, 2, checkpoint(1), LONG_S)
            check(await store.peek(ID), checkpoint(1))

        asyncio.run(scenario())


def test_a_key_of_another_kind_is_told(server: RedisProcess, prefix: str) -> None:
    with open_store(server.url, prefix=prefix) as store, redis.Redis.from_url(server.url) as raw:
        raw.set(f"{prefix}{ID}", "text")
        for name in CALLS.keys() - {"ping", "create"}:
            with pytest.raises(StoreUnavailableError, match="wrong kind"):
                asyncio.run(CALLS[name](store))


def test_what_cannot_be_written_is_told(server: RedisProcess, prefix: str) -> None:
    with open_store(server.url, prefix=prefix) as store, pytest.raises(CheckpointError):
        asyncio.run(store.create(ID, Checkpoint({}, {"a": np.zeros(1)}), LONG_S))


CALLS: dict[str, Callable[[StateStore], Coroutine[Any, Any, object]]] = {
    "ping": lambda store: store.ping(),
    "create": lambda store: store.create("new", checkpoint(), LONG_S),
    "peek": lambda store: store.peek(ID),
    "claim": lambda store: store.claim(ID),
    "owns": lambda store: store.owns(ID, 1),
    "save": lambda store: store.save(ID, 1, checkpoint(), LONG_S),
    "delete": lambda store: store.delete(ID, 1),
}


def expect_unavailable(store: StateStore, reason: str) -> None:
    """Every call must say so."""
    for call in CALLS.values():
        with pytest.raises(StoreUnavailableError, match=reason):
            asyncio.run(call(store))


def test_redis_goes_and_comes_back(tmp_path: Path) -> None:
    with running_redis(tmp_path, appendonly=True) as server, open_store(server.url) as store:
        asyncio.run(store.create(ID, checkpoint(1), LONG_S))
        for end in (server.kill, server.stop):
            end()
            expect_unavailable(store, f"127.0.0.1:{server.port} .*refused")
            server.start()
            asyncio.run(store.ping())
            check(asyncio.run(store.peek(ID)), checkpoint(1))
        asyncio.run(store.save(ID, 1, checkpoint(2), LONG_S))
        server.stop()
        server.start()
        # The connection is broken and the scripts are gone.
        asyncio.run(store.save(ID, 1, checkpoint(3), LONG_S))
        check(asyncio.run(store.peek(ID)), checkpoint(3))


def test_redis_that_has_forgotten_everything_is_told_again(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, open_store(server.url) as store:
        asyncio.run(store.create(ID, checkpoint(), LONG_S))
        server.kill()
        server.start()
        asyncio.run(store.save(ID, 1, checkpoint(1), LONG_S))
        check(asyncio.run(store.peek(ID)), checkpoint(1))


def test_an_attempt_to_create_that_may_have_taken_effect_can_be_made_again(server: RedisProcess, prefix: str) -> None:
    with open_store(server.url, prefix=prefix) as store, open_store(server.url, prefix=prefix) as other:
        assert asyncio.run(store.create(ID, checkpoint(1), LONG_S)) == 1
        assert asyncio.run(store.create(ID, checkpoint(2), LONG_S)) == 1
        with pytest.raises(SessionExistsError):
            asyncio.run(other.create(ID, checkpoint(3), LONG_S))
        check(asyncio.run(store.peek(ID)), checkpoint(2))


def test_redis_that_does_not_answer(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, open_store(server.url) as patient:
        with open_store(server.url, timeout_s=0.2) as used, open_store(server.url, timeout_s=0.2) as fresh:
            with contextlib.suppress(StoreUnavailableError):
                asyncio.run(used.ping())
            server.freeze()
            for store in (used, fresh):
                expect_unavailable(store, f"127.0.0.1:{server.port} ")
            server.thaw()
        asyncio.run(patient.ping())


def test_connections_that_are_cut(server: RedisProcess, prefix: str, tmp_path: Path) -> None:
    port = free_port()
    config = f"""
    defaults
        mode tcp
        timeout connect 5s
        timeout client 60s
        timeout server 60s
    listen redis
        bind 127.0.0.1:{port}
        server redis 127.0.0.1:{server.port}
    """
    with open_store(f"redis://127.0.0.1:{port}", prefix=prefix) as store:
        with running_haproxy(config, tmp_path) as haproxy:
            asyncio.run(store.create(ID, checkpoint(), LONG_S))
            haproxy.stop()
            expect_unavailable(store, f"127.0.0.1:{port} ")
        with running_haproxy(config, tmp_path):
            check(asyncio.run(store.peek(ID)), checkpoint())


def test_refusals_of_redis(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, open_store(server.url) as store, redis.Redis.from_url(server.url) as raw:
        asyncio.run(store.create(ID, checkpoint(), LONG_S))
        raw.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            asyncio.run(store.save(ID, 1, checkpoint(), LONG_S))
        raw.config_set("maxmemory", 0)
        raw.replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreUnavailableError, match="read only replica"):
            asyncio.run(store.save(ID, 1, checkpoint(), LONG_S))
        raw.replicaof("NO", "ONE")
        asyncio.run(store.save(ID, 1, checkpoint(), LONG_S))


def test_the_password_is_needed_and_never_told(tmp_path: Path) -> None:
    password, wrong = "s3cr3t-of-redis", "wr0ng-s3cr3t"
    with running_redis(tmp_path, password=password) as server:
        place = f"127.0.0.1:{server.port}"
        with open_store(server.url) as store, redis.Redis.from_url(server.url) as raw:
            asyncio.run(store.create(ID, checkpoint(), LONG_S))
            raw.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
            told = [failure(store.save(ID, 1, checkpoint(), LONG_S))]
        for url in (f"redis://:{wrong}@{place}", f"redis://user:{wrong}@{place}", f"redis://{place}"):
            with open_store(url) as store:
                told.append(failure(store.ping()))
        server.kill()
        with open_store(server.url) as store:
            told.append(failure(store.ping()))
    for text in told:
        assert place in text
        assert password not in text
        assert wrong not in text


def test_a_reason_that_quotes_the_password_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: redis.Connection) -> None:
        raise redis.ResponseError("unknown command 'AUTH', with args beginning with: 'pa ss'")

    monkeypatch.setattr(redis.Connection, "connect", refuse)
    with open_store("redis://:pa%20ss@127.0.0.1:1") as store:
        text = failure(store.ping())
        assert "unknown command" in text
        assert "pa ss" not in text


def failure(call: Coroutine[Any, Any, object]) -> str:
    """What is told about a store that cannot be used, with all that a log would show."""
    with pytest.raises(StoreUnavailableError) as caught:
        asyncio.run(call)
    assert caught.value.__suppress_context__
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cr3t@host",
        "host:6379",
        "redis://:s3#cr3t@host:6379",
        "redis://:s3/cr3t@host:6379",
        "redis://:s3cr3t@host:port",
        "redis://:s3cr3t@host:6379?unknown=1",
        "redis://:s3cr3t@host:6379?db=s3cr3t",
        "redis://:s3cr3t@[::1",
        "redis://:s3cr3t@host..name:6379",
    ],
)
def test_addresses_that_cannot_be_understood(url: str) -> None:
    with pytest.raises(ValueError, match="address of the state store") as caught:
        RedisStateStore(url)
    assert "cr3t" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_host_that_is_not_there() -> None:
    with open_store("redis://nowhere.invalid:1") as store:
        expect_unavailable(store, r"nowhere\.invalid:1")


def test_a_closed_store_says_so(server: RedisProcess) -> None:
    with open_store(server.url) as store:
        asyncio.run(store.ping())
    expect_unavailable(store, "closed")
