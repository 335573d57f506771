"""Who may do what: API keys, their scopes, and how a bearer token is checked.

A token is ``spikeseg_ID.SECRET``: the id says whose it is, the secret is 32 random bytes. Only the SHA-256 of a token
is kept. A slow hash (scrypt, Argon2) is for passwords, which can be guessed; 256 random bits cannot be, with whatever
hash, and a slow one would let anybody who sends wrong tokens keep the processor busy.

A key's id is who its holder is: sessions belong to it. Several records may have the same id, so that a secret is
replaced without losing the sessions: the old one is valid until it is revoked or expires.

Everything here is pure; :mod:`service.key_file` reads and writes the file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

PREFIX = "spikeseg_"
"""What every token begins with, so that programs that look for leaked secrets can find it."""
MAX_TOKEN_CHARS = 256

_SECRET_BYTES = 32
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_NOBODY = bytes(hashlib.sha256().digest_size)


class Scope(StrEnum):
    """What a key may be good for."""

    STREAM = "stream"
    """Sessions, segmentation, streams."""
    STATE = "state"
    """Snapshots, out and in."""
    READ = "read"
    """Models, recordings, and the description of the API."""
    METRICS = "metrics"
    """Prometheus' metrics."""


class KeyRecordError(ValueError):
    """A record, or what one is to be made of, that is not in order; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept.

    Attributes
    ----------
    id : str
        Whose it is.
    digest : bytes
        SHA-256 of the token.
    scopes : frozenset of Scope
    not_after : datetime or None
        When it stops being valid.
    """

    id: str
    digest: bytes
    scopes: frozenset[Scope]
    not_after: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.not_after is None or now < self.not_after


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes
    ----------
    key : ApiKey or None
        What it has shown; None if the server has no keys, and anybody may do anything.
    """

    key: ApiKey | None = None

    @property
    def id(self) -> str:
        """Whose sessions it uses; empty without keys."""
        return self.key.id if self.key is not None else ""

    def may(self, scope: Scope) -> bool:
        """Whether its key is good for this."""
        return self.key is None or scope in self.key.scopes


class KeyRing:
    """The keys that are known.

    Parameters
    ----------
    keys : iterable of ApiKey
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_id: dict[str, list[ApiKey]] = {}
        for key in self.keys:
            self._by_id.setdefault(key.id, []).append(key)

    def verify(self, token: str, now: datetime) -> ApiKey | None:
        """The key that a token is of; None if it is of none, or of one that has expired.

        However much of the secret is right, this takes equally long.
        """
        if len(token) > MAX_TOKEN_CHARS:
            return None
        given = digest(token)
        id = token.removeprefix(PREFIX).partition(".")[0] if token.startswith(PREFIX) else ""
        found: ApiKey | None = None
        for key in self._by_id.get(id, [_UNKNOWN]):
            if hmac.compare_digest(key.digest, given):
                found = key
        return found if found is not None and found is not _UNKNOWN and found.is_valid(now) else None

    def holds(self, key: ApiKey, now: datetime) -> bool:
        """Whether a key is still among these, with these scopes, and valid."""
        return key in self._by_id.get(key.id, ()) and key.is_valid(now)


_UNKNOWN = ApiKey("", _NOBODY, frozenset())


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def new_key(id: str, scopes: Iterable[Scope], not_after: datetime | None = None) -> tuple[ApiKey, str]:
    """Make a key.

    Returns
    -------
    ApiKey, str
        The key, and its token, which nobody can find out again.

    Raises
    ------
    KeyRecordError
        If the id cannot be one, or there is no scope.
    """
    if not _ID.fullmatch(id):
        raise KeyRecordError(f"a key's id has 1 to 32 lower-case letters, digits and -, not {id!r}")
    chosen = frozenset(scopes)
    if not chosen:
        raise KeyRecordError(f"a key needs a scope: {', '.join(Scope)}")
    token = f"{PREFIX}{id}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    return ApiKey(id, digest(token), chosen, not_after), token


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=f"^{_ID.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    not_after: AwareDatetime | None = None


def to_line(key: ApiKey) -> str:
    """A key as a line of the file."""
    record = {"id": key.id, "sha256": key.digest.hex(), "scopes": sorted(key.scopes)}
    if key.not_after is not None:
        record["not_after"] = key.not_after.astimezone(UTC).isoformat()
    return json.dumps(record)


def read_keys(text: str) -> KeyRing:
    """Read a file of keys: one JSON object a line; empty lines and those that begin with ``#`` are passed over.

    Raises
    ------
    KeyRecordError
        If a line cannot be read; the message says which one, and never what stands in it.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = _Record.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the record"
            raise KeyRecordError(f"line {number}: {place}: {first['msg']}") from None
        keys.append(ApiKey(record.id, bytes.fromhex(record.sha256), record.scopes, record.not_after))
    return KeyRing(keys)
