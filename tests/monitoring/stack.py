"""Prometheus and Alertmanager as real processes, with the shipped configuration for this machine."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from monitoring.queries import MONITORING
from tests.service.harness import PATIENCE_S
from tests.service.real_servers import HOST, MissingProgramError, end_process, find_program, free_port, wait_until_up

PROMETHEUS_CONFIG = MONITORING / "prometheus" / "prometheus.yml"
RULES = MONITORING / "prometheus" / "rules"
ALERTMANAGER_CONFIG = MONITORING / "alertmanager" / "alertmanager.yml"


def promtool() -> str:
    """Path of promtool."""
    return find_program("promtool", package="prometheus")


def amtool() -> str:
    """Path of amtool."""
    return find_program("amtool", package="prometheus-alertmanager")


def alertmanager_program() -> str:
    """Path of Alertmanager, which Debian calls by another name than its makers."""
    try:
        return find_program("prometheus-alertmanager", package="prometheus-alertmanager")
    except MissingProgramError:
        return find_program("alertmanager", package="prometheus-alertmanager")


def local_rules(folder: Path, *, hold: dict[str, str] | None = None) -> None:
    """The shipped rules; ``hold`` gives alerts by name another time for which they must hold."""
    folder.mkdir()
    for path in RULES.glob("*.yml"):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            for rule in group["rules"]:
                if rule.get("alert") in (hold or {}):
                    rule["for"] = (hold or {})[rule["alert"]]
        (folder / path.name).write_text(yaml.safe_dump(document, sort_keys=False))


def local_prometheus(own: str, servers: Sequence[str], alertmanager: str | None, every: str) -> dict[str, Any]:
    """The shipped configuration for a Prometheus of this address, with addresses where names would be asked for."""
    document: dict[str, Any] = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    document["global"] |= {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    (found,) = document["alerting"]["alertmanagers"]
    del found["dns_sd_configs"]
    found["static_configs"] = [{"targets": [alertmanager] if alertmanager else []}]
    jobs = {each["job_name"]: each for each in document["scrape_configs"]}
    del jobs["spikeseg"]["dns_sd_configs"]
    jobs["spikeseg"]["static_configs"] = [{"targets": list(servers)}]
    jobs["prometheus"]["static_configs"] = [{"targets": [own]}]
    return document


@contextlib.contextmanager
def running_prometheus(
    folder: Path,
    servers: Sequence[str],
    *,
    alertmanager: str | None = None,
    hold: dict[str, str] | None = None,
    every: str = "1s",
) -> Iterator[str]:
    """Run Prometheus, which scrapes these servers and has the shipped rules; its address.

    Parameters
    ----------
    folder : Path
        For its files; must not exist.
    servers : sequence of str
        ``HOST:PORT`` of each.
    alertmanager : str, optional
        ``HOST:PORT``.
    hold : dict, optional
        How long alerts, by name, must hold before they fire, other than as shipped.
    every : str
        Between two scrapes, and two looks at the rules.
    """
    program = find_program("prometheus", package="prometheus")
    folder.mkdir()
    local_rules(folder / "rules", hold=hold)
    address, config = f"{HOST}:{free_port()}", folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(local_prometheus(address, servers, alertmanager, every), sort_keys=False))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with _running([*command, f"--web.listen-address={address}"], folder / "log", f"http://{address}/-/ready"):
        yield f"http://{address}"


@contextlib.contextmanager
def running_alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """Run Alertmanager with the shipped configuration, without its patience; every receiver calls the webhook.

    Its ``HOST:PORT``.
    """
    program = alertmanager_program()
    folder.mkdir()
    document = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())
    for route in (document["route"], *document["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in document["receivers"]:
        receiver["webhook_configs"] = [{"url": webhook}]
    config = folder / "alertmanager.yml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    address = f"{HOST}:{free_port()}"
    command = [program, f"--config.file={config}", f"--storage.path={folder / 'data'}"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with _running(command, folder / "log", f"http://{address}/-/ready"):
        yield address


class Webhook:
    """Takes what Alertmanager sends.

    Attributes
    ----------
    url : str
    """

    def __init__(self) -> None:
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        messages = self._messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                messages.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> tuple[str, dict[str, Any]]:
        """The first alert that is wanted, and the receiver that it was sent to.

        Raises
        ------
        queue.Empty
            If none comes.
        """
        while True:
            message = self._messages.get(timeout=PATIENCE_S)
            for alert in message["alerts"]:
                if wanted(alert):
                    return message["receiver"], alert

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)


@contextlib.contextmanager
def running_webhook() -> Iterator[Webhook]:
    """Take what Alertmanager sends."""
    webhook = Webhook()
    try:
        yield webhook
    finally:
        webhook.close()


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_until_up(lambda: _answers(ready), process, log.read_text)
        yield
    finally:
        end_process(process)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False
