"""HTTPS and WSS by the server itself, with certificates of an authority of our own; and clients that must have one."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from clients import Client
from service.auth import Scope, new_key
from service.key_file import add_key
from tests.service.harness import REPOSITORY, SENSOR, WINDOW_US, Stream, random_events, running_server


@dataclass(frozen=True)
class Pki:
    """Files of a certificate, and an authority that clients and server can trust."""

    authority: trustme.CA
    ca: Path
    cert: Path
    key: Path

    def context(self, *, client: bool = False) -> ssl.SSLContext:
        """What a client verifies the server with; with ``client``, it has a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if client:
            self.authority.issue_cert("robot@spikeseg.example").configure_cert(context)
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    authority = trustme.CA()
    found = Pki(authority, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(found.ca))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    found.key.write_bytes(issued.private_key_pem.bytes())
    found.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return found


def test_streams_and_requests_go_over_tls_with_a_token(pki: Pki, tmp_path: Path) -> None:
    key, token = new_key("alice", [Scope.STREAM, Scope.READ])
    add_key(tmp_path / "keys", key)
    headers, context = {"Authorization": f"Bearer {token}"}, pki.context()
    settings = {"tls_cert": pki.cert, "tls_key": pki.key, "keys_file": tmp_path / "keys"}
    with running_server(verify=context, **settings) as url:
        assert url.startswith("https://")
        response = httpx.get(f"{url}/v1/models", headers=headers, verify=context)
        assert response.status_code == 200
        assert response.headers["strict-transport-security"].startswith("max-age=")
        origin = {"Origin": url}
        with Stream(url, additional_headers={**headers, **origin}, ssl=context) as stream:
            assert len(stream.events(random_events(3, windows=3))) == 2
            stream.end()
        batches = iter([random_events(3, windows=3)])
        with Client(url, token=token, verify=str(pki.ca)) as client:
            assert len(list(client.stream(batches, SENSOR, window_us=WINDOW_US))) == 3
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/v1/models", headers=headers)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/v1/models", headers=headers)


def test_a_server_can_want_certificates_of_its_clients(pki: Pki) -> None:
    known = pki.context(client=True)
    settings = {"tls_cert": pki.cert, "tls_key": pki.key, "tls_client_ca": pki.ca}
    with running_server(verify=known, **settings) as url:
        with Stream(url, ssl=known) as stream:
            assert len(stream.events(random_events(3, windows=2))) == 1
            stream.end()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v2/health/live", verify=pki.context())
        stranger = ssl.create_default_context(cafile=str(pki.ca))
        trustme.CA().issue_cert("robot@spikeseg.example").configure_cert(stranger)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v2/health/live", verify=stranger)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SPIKESEG_TLS_KEY": "/nonexistent"}, "SPIKESEG_TLS_KEY"),
        ({"SPIKESEG_TLS_KEY": ""}, "go together"),
        ({"SPIKESEG_TLS_CLIENT_CA": "/nonexistent"}, "SPIKESEG_TLS_CLIENT_CA"),
        ({"SPIKESEG_TLS_CERT": __file__}, "SPIKESEG_TLS_CERT"),
    ],
)
def test_files_that_cannot_be_used_are_said_in_a_line(pki: Pki, change: dict[str, str], said: str) -> None:
    files = {"SPIKESEG_TLS_CERT": str(pki.cert), "SPIKESEG_TLS_KEY": str(pki.key), **change}
    run = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=REPOSITORY,
        env={**os.environ, "SPIKESEG_PORT": "0", "SPIKESEG_LOG_FORMAT": "text", **files},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert said in line
