"""Sessions kept in Redis, or in Valkey, which speaks the same protocol.

A session is one hash: its fencing epoch, the latest checkpoint, and by whom and as which of their writes it was saved.
One that was deleted keeps its epoch until it expires, so that nobody who held it before can bring it back. What must
happen as a whole is a script that the server runs.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from service.streaming.checkpoints import Checkpoint, CheckpointError, decode_checkpoint, encode_checkpoint
from service.streaming.state_store import Claim, CorruptCheckpointError, StoreUnavailableError, exists, fenced

T = TypeVar("T")

_READ_BYTES = 1 << 18

# KEYS: the session. ARGV: writer, number, data, ttl in ms.
_CREATE = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'writer')
local epoch = 1
if redis.call('HEXISTS', KEYS[1], 'data') == 1 then
  if held[1] ~= '1' or held[2] ~= ARGV[1] then return 0 end
elseif held[1] then
  epoch = held[1] + 1
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'writer', ARGV[1], 'number', ARGV[2], 'data', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return epoch
"""

# KEYS: the session.
_CLAIM = """
if redis.call('HEXISTS', KEYS[1], 'data') == 0 then return false end
return {redis.call('HINCRBY', KEYS[1], 'epoch', 1), redis.call('HGET', KEYS[1], 'data')}
"""

# KEYS: the session. ARGV: writer, number, data, ttl in ms, epoch.
_SAVE = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'writer', 'number')
if held[1] then
  if tonumber(held[1]) > tonumber(ARGV[5]) or redis.call('HEXISTS', KEYS[1], 'data') == 0 then return 0 end
  if held[2] == ARGV[1] and tonumber(held[3]) > tonumber(ARGV[2]) then return 1 end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[5], 'writer', ARGV[1], 'number', ARGV[2], 'data', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: the session. ARGV: epoch.
_DELETE = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HDEL', KEYS[1], 'data') end
return 1
"""


class RedisStateStore:
    """Keeps sessions in Redis, from threads of its own: the event loop neither packs nor sends checkpoints.

    Every call ends within ``timeout_s``, what it waits for a thread included. Nothing is tried twice, but a connection
    that has broken since its last use is made anew.

    Parameters
    ----------
    url : str
        ``redis://[[user]:password@]host[:port][/database]``; ``rediss://`` for TLS; ``unix://`` for a socket's path.
    prefix : str
        Of every key.
    timeout_s : float
        How long a call may take, in seconds.
    threads : int
        Calls that are made at a time.

    Raises
    ------
    ValueError
        If the address cannot be understood.
    """

    def __init__(self, url: str, *, prefix: str = "spikeseg:", timeout_s: float = 2.0, threads: int = 2) -> None:
        pool = _make_pool(url, timeout_s)
        options = pool.connection_kwargs
        self._place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self._password: str = options.get("password") or ""
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._client = Redis.from_pool(pool)
        self._run_create = self._client.register_script(_CREATE)
        self._run_claim = self._client.register_script(_CLAIM)
        self._run_save = self._client.register_script(_SAVE)
        self._run_delete = self._client.register_script(_DELETE)
        self._writer = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._threads = ThreadPoolExecutor(threads, "redis")
        self._closed = False

    @property
    def durable(self) -> bool:
        """What is saved outlives this process."""
        return True

    async def create(self, id: str, checkpoint: Checkpoint, ttl_s: float) -> int:
        """As in ``StateStore``."""
        number = next(self._numbers)

        def create() -> int:
            args: list[str | int | bytes] = [self._writer, number, encode_checkpoint(checkpoint), _milliseconds(ttl_s)]
            return int(self._run_create([self._key(id)], args))

        epoch = await self._call(create)
        if not epoch:
            raise exists(id)
        return epoch

    async def peek(self, id: str) -> Checkpoint | None:
        """As in ``StateStore``."""

        def peek() -> Checkpoint | None:
            data = self._client.hget(self._key(id), "data")
            return None if data is None else _decode(id, data)

        return await self._call(peek)

    async def claim(self, id: str) -> Claim | None:
        """As in ``StateStore``."""

        def claim() -> Claim | None:
            reply = self._run_claim([self._key(id)])
            return None if reply is None else Claim(int(reply[0]), _decode(id, reply[1]))

        return await self._call(claim)

    async def owns(self, id: str, epoch: int) -> bool:
        """As in ``StateStore``."""
        key = self._key(id)

        def owns() -> bool:
            held = self._client.hget(key, "epoch")
            return held is None or (int(held) <= epoch and bool(self._client.hexists(key, "data")))

        return await self._call(owns)

    async def save(self, id: str, epoch: int, checkpoint: Checkpoint, ttl_s: float) -> None:
        """As in ``StateStore``."""
        # A save that nobody waits for any more may still be on its way, in a thread or in the server's socket. By its
        # number it is known to be older than one that the same holder has made since.
        number = next(self._numbers)

        def save() -> bool:
            args: list[str | int | bytes] = [
                self._writer,
                number,
                encode_checkpoint(checkpoint),
                _milliseconds(ttl_s),
                epoch,
            ]
            return bool(self._run_save([self._key(id)], args))

        if not await self._call(save):
            raise fenced(id, epoch)

    async def delete(self, id: str, epoch: int) -> None:
        """As in ``StateStore``."""
        await self._call(partial(self._run_delete, [self._key(id)], [epoch]))

    async def ping(self) -> None:
        """As in ``StateStore``."""
        await self._call(self._client.ping)

    async def close(self) -> None:
        """As in ``StateStore``; takes up to a few times ``timeout_s`` if Redis does not answer."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    async def _call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread; its complaints about Redis become StoreUnavailableError."""
        if self._closed:
            raise self._unavailable("the store is closed")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        except TimeoutError:
            raise self._unavailable(f"no answer within {self._timeout_s:g} s") from None
        except (RedisError, OSError) as error:
            # Without the cause: its text may hold the password.
            raise self._unavailable(str(error)) from None

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        if self._password:
            reason = reason.replace(self._password, "***")
        return StoreUnavailableError(f"Redis at {self._place} cannot be used: {reason}")

    def _key(self, id: str) -> bytes:
        # An id comes from outside and may be any text.
        return (self._prefix + id).encode(errors="surrogatepass")


def _make_pool(url: str, timeout_s: float) -> ConnectionPool:
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        # RESP2 has no handshake beyond AUTH, and no notifications that would need one.
        options |= {
            "protocol": 2,
            "driver_info": None,
            "decode_responses": False,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "socket_read_size": _READ_BYTES,
            "retry": Retry(NoBackoff(), 0),
        }
        pool = ConnectionPool(options.pop("connection_class", Connection), **options)
        # Unknown options and impossible names would show only when a connection is made.
        pool.connection_class(**pool.connection_kwargs)
        options.get("host", "").encode("idna")
    except (ValueError, TypeError, RedisError):
        # Without the cause: it may quote a password whose special characters are not encoded.
        raise ValueError(
            "the address of the state store cannot be understood; it is like redis://user:password@host:port/database, "
            "with special characters of the password percent-encoded"
        ) from None
    return pool


def _decode(id: str, data: object) -> Checkpoint:
    if not isinstance(data, bytes):
        raise CorruptCheckpointError(f"session {id} has no checkpoint")
    try:
        return decode_checkpoint(data)
    except CheckpointError as error:
        raise CorruptCheckpointError(f"the checkpoint of session {id} cannot be read: {error}") from error


def _milliseconds(ttl_s: float) -> int:
    return max(1, math.ceil(ttl_s * 1000))
