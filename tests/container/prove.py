"""Build the image and run docker-compose.yml as its users do; write down what was seen.

python -m tests.container.prove --json docs/results/container.json

Needs a running Docker daemon (``DOCKER_HOST``), docker-compose, and the base image or a registry that has it. Without a
registry, ``--stand-in IMAGE`` names an image used in place of theirs: with prometheus, prometheus-alertmanager,
redis-server and haproxy as Debian has them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.machine import describe_machine
from tests.service.real_servers import free_port

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "service" / "demo" / "street.aedat4"
BASE = "python:3.11-slim-bookworm"
STAND_INS = Path(__file__).with_name("stand-ins.yml")
PATIENCE_S = 180.0


class ProofError(Exception):
    """Something is not as docs/deploy.md says."""


def reason_not_to_run() -> str | None:
    """Why containers cannot be run here; None if they can."""
    for program in ("docker", "docker-compose"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    info = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60, check=False)
    return f"no Docker daemon answers: {info.stderr.strip()[:200]}" if info.returncode else None


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command; its standard output."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProofError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout.strip()


def wait_until(what: str, check: Callable[[], bool]) -> float:
    """Wait until a check holds; the seconds that it took."""
    begin = time.monotonic()
    while not check():
        if time.monotonic() - begin > PATIENCE_S:
            raise ProofError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.2)
    return time.monotonic() - begin


def require(holds: bool, what: str) -> None:
    """Raise ProofError if something does not hold."""
    if not holds:
        raise ProofError(what)
    print(what, flush=True)


def get(url: str) -> str | None:
    """Body of an answer with status 200, or None."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def status_of(url: str, token: str | None = None) -> int:
    """Status of an answer, asked for with a token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


class Stack:
    """docker-compose.yml as a project of its own, on free ports.

    Parameters
    ----------
    stand_in : str or None
        Image used in place of third parties' ones.
    """

    def __init__(self, stand_in: str | None) -> None:
        files = ["docker-compose.yml"] + ([str(STAND_INS)] if stand_in else [])
        self._files = [part for file in files for part in ("-f", file)]
        self.service, self.scale, self.prometheus = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        self._environment = {
            "COMPOSE_PROJECT_NAME": f"spikeseg-proof-{os.getpid()}",
            "STAND_IN": stand_in or "",
            "SPIKESEG_PORT": self.service.rpartition(":")[2],
            "SPIKESEG_SCALE_PORT": self.scale.rpartition(":")[2],
            "SPIKESEG_PROMETHEUS_PORT": self.prometheus.rpartition(":")[2],
            "SPIKESEG_GRAFANA_PORT": str(free_port()),
            "SPIKESEG_ALERTMANAGER_PORT": str(free_port()),
        }

    def compose(self, *arguments: str, extra: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
        """Run docker-compose, with ``extra`` compose files and environment; its output."""
        command = ["docker-compose", *self._files, *(part for file in extra for part in ("-f", file))]
        command += ["--profile", "scale", "--profile", "demo"]
        return run(*command, *arguments, environment={**self._environment, **(environment or {})})

    def container(self, name: str) -> str:
        """Id of a service's container."""
        return self.compose("ps", "-q", name).splitlines()[0]

    def windows(self, container: str) -> float:
        """Windows that the server in a container has computed."""
        return _metric(container, "spikeseg_windows_total")


def _metric(container: str, name: str) -> float:
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
    text = run("docker", "exec", container, "python", "-c", code)
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def replay(url: str) -> subprocess.Popen[str]:
    """Play the demo recording against a service, at the sensor's pace."""
    command = [sys.executable, "-m", "clients.cli", "stream", str(RECORDING), "--speed", "1", "--quiet", "--url", url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def windows_of(player: subprocess.Popen[str]) -> int:
    """Windows that a replay was given, once it is through."""
    out, err = player.communicate(timeout=PATIENCE_S)
    if player.returncode:
        raise ProofError(f"the replay ended with {player.returncode}: {err}")
    found = re.search(r"^windows +(\d+)", out, re.MULTILINE)
    if found is None:
        raise ProofError(f"the report does not name the windows: {out}")
    return int(found[1])


def prove_service(stack: Stack, services: list[str]) -> dict[str, Any]:
    """One server with its Prometheus."""
    begin = time.monotonic()
    stack.compose("up", "-d", "--no-build", "service")
    wait_until("the service is ready", lambda: get(f"{stack.service}/v2/health/ready") is not None)
    seen: dict[str, Any] = {"seconds_to_ready": round(time.monotonic() - begin, 1)}
    stack.compose("up", "-d", "--no-build", *services)
    container = stack.container("service")
    require(run("docker", "exec", container, "id", "-u") == "10001", "the server runs as user 10001")
    (inspected,) = json.loads(run("docker", "inspect", container))
    host = inspected["HostConfig"]
    require(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], "read-only root, no capabilities")
    require("no-new-privileges:true" in host["SecurityOpt"], "no new privileges")
    writes = subprocess.run(["docker", "exec", container, "touch", "/var/tmp/x"], capture_output=True, check=False)
    require(writes.returncode != 0, "nothing can be written outside /tmp")
    seen["windows"] = windows_of(replay(stack.service))
    require(seen["windows"] > 60, f"a stream over the published port was given {seen['windows']} windows")
    query = urllib.parse.urlencode({"query": "sum(spikeseg_windows_total)"})

    def scraped() -> bool:
        result = json.loads(get(f"{stack.prometheus}/api/v1/query?{query}") or "{}").get("data", {}).get("result")
        return bool(result) and float(result[0]["value"][1]) >= seen["windows"]

    wait_until("Prometheus has scraped the windows", scraped)
    print("Prometheus has scraped the windows", flush=True)

    def alerted() -> bool:
        found = json.loads(get(f"{stack.prometheus}/api/v1/alertmanagers") or "{}")
        return bool(found.get("data", {}).get("activeAlertmanagers"))

    wait_until("Prometheus has found Alertmanager", alerted)
    print("Prometheus has found Alertmanager", flush=True)
    rules = json.loads(get(f"{stack.prometheus}/api/v1/rules") or "{}").get("data", {}).get("groups", [])
    require(bool(rules), f"Prometheus has loaded {len(rules)} groups of rules")
    return seen


def prove_demo(stack: Stack, once: int) -> dict[str, Any]:
    """A client that plays the demo recording, of ``once`` windows, again and again."""
    container = stack.container("service")
    before = stack.windows(container)
    stack.compose("up", "-d", "--no-build", "demo")
    wait_until("the demo client streams", lambda: stack.windows(container) > before + once)
    stack.compose("stop", "demo")
    print("profile demo plays the recording more than once", flush=True)
    return {"windows": int(stack.windows(container) - before)}


def prove_drain(stack: Stack) -> dict[str, Any]:
    """``docker stop`` ends a server in order."""
    container = stack.container("service")
    begin = time.monotonic()
    run("docker", "stop", "--time", "40", container)
    seconds = round(time.monotonic() - begin, 1)
    code = int(run("docker", "inspect", "--format", "{{.State.ExitCode}}", container))
    require(code == 0, "docker stop: exit code 0")
    return {"exit_code": code, "seconds": seconds}


def prove_keys(stack: Stack) -> dict[str, Any]:
    """The service anew with docker-compose.keys.yml: nobody is let in without a token."""
    with tempfile.TemporaryDirectory() as folder:
        # Readable for user 10001, as docs/deploy.md asks.
        Path(folder).chmod(0o755)
        environment = {"SPIKESEG_KEYS_FILE": f"{folder}/keys"}
        token = run(sys.executable, "-m", "service.keys", "new", "proof", "--scopes", "read", environment=environment)
        Path(folder, "keys").chmod(0o644)
        stack.compose(
            *("up", "-d", "--no-build", "--no-deps", "service"),
            extra=("docker-compose.keys.yml",),
            environment={"SPIKESEG_KEYS_FOLDER": folder},
        )
        wait_until("the service with keys is ready", lambda: get(f"{stack.service}/v2/health/ready") is not None)
        models = f"{stack.service}/v1/models"
        seen = {"without_token": status_of(models), "with_token": status_of(models, token)}
        stack.compose("stop", "service")
    require(seen == {"without_token": 401, "with_token": 200}, "with keys, only a token is let in")
    return seen


def prove_scale(stack: Stack) -> dict[str, Any]:
    """Two replicas, of which the one that has a stream is killed."""
    stack.compose("up", "-d", "--no-build", "haproxy")
    wait_until("HAProxy finds a replica", lambda: get(f"{stack.scale}/v2/health/ready") is not None)
    replicas = [stack.container(name) for name in ("replica-1", "replica-2")]
    player = replay(stack.scale)
    serving: list[str] = []

    def found() -> bool:
        serving[:] = [each for each in replicas if _metric(each, "spikeseg_windows_total") > 5]
        return bool(serving) or player.poll() is not None

    wait_until("a replica serves the stream", found)
    require(player.poll() is None, "the stream is under way when its replica is killed")
    run("docker", "kill", serving[0])
    windows = windows_of(player)
    (other,) = (each for each in replicas if each != serving[0])
    taken = _metric(other, "spikeseg_sessions_taken_over_total")
    require(taken >= 1, f"the other replica took the stream up; it was given {windows} windows")
    return {"windows": windows, "sessions_taken_over": int(taken)}


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        **describe_machine(),
        "docker": run("docker", "version", "--format", "{{.Server.Version}}"),
        "compose": run("docker-compose", "version", "--short"),
    }


def _image_bytes(name: str) -> int:
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", name))


def prove(stand_in: str | None) -> dict[str, Any]:
    """All of it, with the image ``spikeseg`` as it is."""
    stack = Stack(stand_in)
    report: dict[str, Any] = {"machine": machine(), "stand_ins_for_third_party_images": stand_in is not None}
    report["image_bytes_above_base"] = _image_bytes("spikeseg") - _image_bytes(BASE)
    others = ["prometheus", "alertmanager", *([] if stand_in else ["grafana"])]
    report["grafana"] = stand_in is None
    try:
        report["service"] = prove_service(stack, others)
        report["demo"] = prove_demo(stack, report["service"]["windows"])
        report["drain"] = prove_drain(stack)
        report["keys"] = prove_keys(stack)
        report["scale"] = prove_scale(stack)
    except ProofError:
        print(stack.compose("logs", "--tail", "30"), file=sys.stderr)
        raise
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")
    return report


def main() -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.container.prove", description=__doc__)
    parser.add_argument("--stand-in", metavar="IMAGE", help="image to use in place of third parties' ones")
    parser.add_argument(
        "--build", action="append", metavar="ARGUMENT", help="build first, with this argument, repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen there")
    args = parser.parse_args()
    if reason := reason_not_to_run():
        print(reason, file=sys.stderr)
        return 2
    seconds = None
    if args.build is not None:
        begin = time.monotonic()
        run("docker", "build", "-t", "spikeseg", *args.build, ".")
        seconds = round(time.monotonic() - begin, 1)
    report = prove(args.stand_in)
    if seconds is not None:
        report["build_seconds"] = seconds
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
