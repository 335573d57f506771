"""``python -m service``: run the server until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError

from service.app import create_app, services_of_app
from service.observability.logs import configure_logs
from service.observability.tracing import trace_ids
from service.origins import is_loopback
from service.protocols import WebSocketProtocol, http_protocol
from service.settings import Settings

# Messages up to this factor above the limit are still read, so that the client is told what is wrong with them.
_READ_FACTOR = 2
EXIT_SETTINGS = 2
EXIT_START = 3

logger = logging.getLogger("service")


class _Server(uvicorn.Server):
    """Says where it listens, as one line on standard output, once it does; hands its sessions over before it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            print(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Still listening, so that whoever asks is told that the server is about to stop.
        services = services_of_app(self.config.app)
        if services is not None and not self.force_exit:
            await services.drain()
        await super().shutdown(sockets)


def main() -> int:
    """Run the server; the exit status."""
    # uvicorn finishes what is under way and then raises the signal once more: a wanted stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    try:
        settings = Settings()
    except ValidationError as error:
        # The format may be among what is wrong; what it says is then not understood, and chosen as if it were not set.
        configure_logs(os.environ.get("SPIKESEG_LOG_FORMAT", "auto").lower(), "info")
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            name = "_".join(["SPIKESEG", *map(str, item["loc"])]).upper()
            logger.critical("%s: %s", name, item["msg"])
        return EXIT_SETTINGS
    configure_logs(settings.log_format, settings.log_level, trace_ids)
    if settings.keys_file is None and settings.tls_client_ca is None and not settings.insecure:
        if not is_loopback(settings.host):
            logger.critical(
                "SPIKESEG_HOST=%s would let anybody on the network use this server: name a file of keys in "
                "SPIKESEG_KEYS_FILE (python -m service.keys makes it), or, if something in front of the server checks "
                "who asks, set SPIKESEG_INSECURE=true",
                settings.host,
            )
            return EXIT_SETTINGS
    elif settings.keys_file is not None and settings.tls_cert is None and not is_loopback(settings.host):
        logger.warning("tokens come in the clear: set SPIKESEG_TLS_CERT, or have a proxy in front do TLS")
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        workers=1,
        log_config=None,
        # The app writes its own, with more in them.
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        # Masks are compressed already; deflate would only cost time and memory.
        ws_per_message_deflate=False,
        ws_max_size=settings.max_message_bytes * _READ_FACTOR,
        ws_ping_interval=settings.ping_seconds,
        ws_ping_timeout=settings.pong_seconds,
        http=http_protocol(settings),
        ws=WebSocketProtocol,
        forwarded_allow_ips=settings.trusted_proxies,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_client_ca is None else str(settings.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if settings.tls_client_ca is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except OSError as error:
        # What cannot be read, and what is no certificate or not of this key, which is an SSLError.
        logger.critical("SPIKESEG_TLS_CERT, SPIKESEG_TLS_KEY or SPIKESEG_TLS_CLIENT_CA cannot be used: %s", error)
        return EXIT_SETTINGS
    server = _Server(config)
    server.run()
    return 0 if server.started else EXIT_START


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
