"""Real servers of other makers on this machine: Redis, and HAProxy."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.service.harness import PATIENCE_S

HOST = "127.0.0.1"
# Below those that the kernel gives to clients: one that calls a dead server there may be given the server's own port,
# and is then connected to itself.
_PORTS = range(20_000, 32_000)


class MissingProgramError(Exception):
    """A program that the tests need is not installed."""


class RedisProcess:
    """A ``redis-server``; without ``appendonly`` it forgets everything when it stops.

    Attributes
    ----------
    port : int
    url : str
        Address with the password, if there is one.
    """

    def __init__(self, folder: Path, port: int, *, appendonly: bool, password: str | None) -> None:
        self.port = port
        self.url = f"redis://:{password}@{HOST}:{port}" if password else f"redis://{HOST}:{port}"
        self._log = folder / f"redis-{port}.log"
        self._command: list[str | Path] = [
            find_program("redis-server", package="redis-server"),
            *("--bind", HOST, "--port", str(port), "--dir", folder, "--logfile", self._log, "--loglevel", "warning"),
            *("--save", "", "--appendonly", "yes" if appendonly else "no"),
            *(("--requirepass", password) if password else ()),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the same port as before."""
        assert self._process is None, "it runs already"
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_up(self._answers, self._process, lambda: self._log.read_text() if self._log.exists() else "")

    def stop(self) -> None:
        """Have it shut down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Make it vanish."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Make it do nothing; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            end_process(process, how)

    def _answers(self) -> bool:
        with socket.create_connection((HOST, self.port), PATIENCE_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))


@contextlib.contextmanager
def running_redis(
    folder: Path, *, port: int | None = None, appendonly: bool = False, password: str | None = None
) -> Iterator[RedisProcess]:
    """Run Redis; it is gone afterwards, whatever state it is in.

    Parameters
    ----------
    folder : Path
        For its files.
    port : int, optional
        A free one if not given.
    appendonly : bool
        Whether it keeps what it holds over a restart.
    password : str, optional
        Without characters that an address must encode.
    """
    redis = RedisProcess(folder, free_port() if port is None else port, appendonly=appendonly, password=password)
    try:
        redis.start()
        yield redis
    finally:
        redis.kill()


class HaproxyProcess:
    """An ``haproxy``.

    Attributes
    ----------
    ports : tuple of int
        On which it listens, as its configuration says.
    """

    def __init__(self, config: str, folder: Path) -> None:
        self.ports = tuple(int(port) for port in re.findall(r"^\s*bind\s+\S*:(\d+)", config, re.MULTILINE))
        self._log = folder / "haproxy.log"
        program, file = find_program("haproxy", package="haproxy"), folder / "haproxy.cfg"
        file.write_text(config + "\n")
        check = subprocess.run([program, "-c", "-f", file], capture_output=True, text=True)
        assert check.returncode == 0, f"haproxy does not take the configuration:\n{check.stdout}{check.stderr}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, "-db", "-f", file], stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Return once it listens."""
        wait_until_up(self._listens, self._process, self.log)

    def stop(self) -> None:
        """Stop it; connections through it break."""
        end_process(self._process)

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def _listens(self) -> bool:
        for port in self.ports:
            socket.create_connection((HOST, port), PATIENCE_S).close()
        return True


@contextlib.contextmanager
def running_haproxy(config: str, folder: Path) -> Iterator[HaproxyProcess]:
    """Run HAProxy with a configuration, which is written to ``folder``."""
    haproxy = HaproxyProcess(config, folder)
    try:
        haproxy.wait_until_ready()
        yield haproxy
    finally:
        haproxy.stop()


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise AssertionError("no port is free")


def find_program(name: str, *, package: str) -> str:
    """Path of a program; Debian has some where only root looks for them.

    Raises
    ------
    MissingProgramError
        If it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingProgramError(f"these tests need {name}; on Debian: apt-get install {package}")
    return found


def wait_until_up(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    """Return once a process that has been started answers; ``log`` tells what it said if it does not."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended with code {process.returncode}:\n{log()}"
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.02)
    raise AssertionError(f"it did not become ready:\n{log()}")


def end_process(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Have a process end, and wait until it has."""
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)  # A frozen process would not notice.
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
