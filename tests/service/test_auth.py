"""Keys: tokens, what is kept of them, the file that changes under a running server, and the command that makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth import KeyRecordError, KeyRing, Scope, new_key, read_keys, to_line
from service.key_file import LOOK_SECONDS, KeyFile, KeyFileError, add_key, load_keys
from service.origins import host_of, is_loopback, is_same_origin, origin_of
from service.rate_limits import RateLimiter, network_of
from tests.service.harness import REPOSITORY

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_token_is_its_own_keys_and_no_others() -> None:
    (alice, token), (bob, other) = new_key("alice", [Scope.STREAM]), new_key("bob", [Scope.READ])
    ring = KeyRing([alice, bob])
    assert ring.verify(token, NOW) == alice
    assert ring.verify(other, NOW) == bob
    for wrong in (
        "",
        token[:-1],
        token + "A",
        token.replace("alice", "bob"),
        token.removeprefix("spikeseg_"),
        "x" * 9999,
    ):
        assert ring.verify(wrong, NOW) is None


def test_neither_record_nor_repr_holds_the_secret() -> None:
    key, token = new_key("alice", [Scope.STREAM])
    secret = token.partition(".")[2]
    assert len(secret) >= 43
    assert secret not in to_line(key) + repr(key)


def test_a_second_token_replaces_the_first_without_a_gap() -> None:
    (old, first), (new, second) = new_key("alice", [Scope.STREAM]), new_key("alice", [Scope.STREAM])
    both = KeyRing([old, new])
    assert both.verify(first, NOW) == old
    assert both.verify(second, NOW) == new
    after = KeyRing([new])
    assert after.verify(first, NOW) is None
    assert not after.holds(old, NOW)
    assert after.holds(new, NOW)


def test_a_key_ends_when_it_says() -> None:
    key, token = new_key("alice", [Scope.STREAM], NOW)
    ring = read_keys(to_line(key))
    assert ring.verify(token, NOW - timedelta(microseconds=1)) == key
    assert ring.verify(token, NOW) is None
    assert not ring.holds(key, NOW)


@given(st.text())
def test_whatever_stands_in_a_token_is_refused_without_an_error(text: str) -> None:
    key, _ = new_key("alice", [Scope.STREAM])
    assert KeyRing([key]).verify(text, NOW) is None
    assert KeyRing([key]).verify("spikeseg_alice." + text, NOW) is None


@given(st.sets(st.sampled_from(list(Scope)), min_size=1), st.none() | st.datetimes(timezones=st.just(UTC)))
def test_a_record_is_read_as_it_was_written(scopes: set[Scope], not_after: datetime | None) -> None:
    key, _ = new_key("a-1", scopes, not_after)
    assert read_keys(f"# a comment\n\n{to_line(key)}\n").keys == (key,)


@pytest.mark.parametrize(
    ("line", "blamed"),
    [
        ("not json", "JSON"),
        ("{}", "id"),
        ('{"id": "UPPER", "sha256": "%s", "scopes": ["read"]}' % ("0" * 64), "id"),
        ('{"id": "a", "sha256": "00", "scopes": ["read"]}', "sha256"),
        ('{"id": "a", "sha256": "%s", "scopes": []}' % ("0" * 64), "scopes"),
        ('{"id": "a", "sha256": "%s", "scopes": ["all"]}' % ("0" * 64), "scopes"),
        (
            '{"id": "a", "sha256": "%s", "scopes": ["read"], "not_after": "2026-01-01T00:00:00"}' % ("0" * 64),
            "not_after",
        ),
        ('{"id": "a", "sha256": "%s", "scopes": ["read"], "more": 1}' % ("0" * 64), "more"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_not_quoted(line: str, blamed: str) -> None:
    with pytest.raises(KeyRecordError) as error:
        read_keys("# first\n" + line)
    assert str(error.value).startswith("line 2")
    assert blamed in str(error.value)
    assert "0" * 64 not in str(error.value)


def test_the_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path, seconds = tmp_path / "keys", [0.0]
    (alice, token), (bob, other) = new_key("alice", [Scope.STREAM]), new_key("bob", [Scope.READ])
    add_key(path, alice)
    keys = KeyFile(path, clock=lambda: seconds[0])
    assert keys.ring.verify(token, NOW) == alice
    add_key(path, bob)
    assert keys.ring.verify(other, NOW) is None, "it is not looked at with every request"
    seconds[0] += LOOK_SECONDS
    assert keys.ring.verify(other, NOW) == bob
    good = path.read_text()
    for broken in ("{", None):
        path.write_text(broken) if broken is not None else path.unlink()
        seconds[0] += LOOK_SECONDS
        assert keys.ring.verify(other, NOW) == bob
        assert keys.problem is not None
    path.write_text(good.splitlines()[0] + "\n")
    seconds[0] += LOOK_SECONDS
    assert keys.ring.verify(other, NOW) is None
    assert keys.problem is None


def test_a_server_does_not_start_with_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(tmp_path / "none")


def run(*arguments: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.keys", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "SPIKESEG_KEYS_FILE": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_shows_a_token_once_and_revokes_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("new", "robot-7", "--scopes", "stream,read", "--days", "30", file=file)
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert token.partition(".")[2] not in file.read_text()
    (key,) = load_keys(file).keys
    assert key.scopes == {Scope.STREAM, Scope.READ}
    assert load_keys(file).verify(token, datetime.now(UTC)) == key
    assert json.loads(file.read_text())["id"] == "robot-7"
    listed = run("list", file=file).stdout
    assert "robot-7" in listed
    assert token not in listed
    assert run("revoke", "robot-7", file=file).returncode == 0
    assert load_keys(file).keys == ()
    for wrong in (
        ("revoke", "robot-7"),
        ("new", "UPPER"),
        ("new", "x", "--scopes", "all"),
        ("new", "x", "--days", "0"),
    ):
        failed = run(*wrong, file=file)
        assert failed.returncode == 2
        assert "Traceback" not in failed.stderr


def test_a_bucket_empties_and_fills_again_for_each_caller() -> None:
    seconds = [0.0]
    limiter = RateLimiter(2.0, 3.0, most_callers=2, clock=lambda: seconds[0])
    assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limiter.take("b") == 0
    seconds[0] = 0.5
    assert [limiter.take("a") for _ in range(2)] == [0, 0.5]
    for n in range(100):
        limiter.take(f"c{n}")
    assert len(limiter) == 2
    assert RateLimiter(0, 1).take("a", 1e9) == 0


def test_an_ipv6_site_is_one_caller() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("testclient") == "testclient"


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("https://A.example", "a.example", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://a.example", "a.example:8000", False),
        ("https://a.example.evil.example", "a.example", False),
    ],
)
def test_a_page_is_of_the_server_that_it_came_from(origin: str, host: str, same: bool) -> None:
    found = origin_of(origin)
    assert found is not None
    assert is_same_origin(found, host) is same


@pytest.mark.parametrize(
    "text", ["null", "", "*", "a.example", "ftp://a.example", "https://", "https://a/b", "https://u@a", "https://a:x"]
)
def test_what_is_no_origin_is_none(text: str) -> None:
    assert origin_of(text) is None


@given(st.text())
def test_any_text_is_read_as_origin_and_host_without_an_error(text: str) -> None:
    origin_of(text)
    host_of(text, "http")
    is_loopback(text)


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "a.example", "")))
