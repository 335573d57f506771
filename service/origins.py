"""Names of hosts and origins of web pages (RFC 6454), as settings and headers have them."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Origin = tuple[str, str, int]
"""Scheme, host, port."""


def names_in(text: str) -> tuple[str, ...]:
    """The items of a setting with commas between them."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def origin_of(text: str) -> Origin | None:
    """An origin, read; None if it is not of the form ``scheme://host[:port]``.

    That of pages without one, ``null``, is among these.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        return None
    if parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port if port is not None else _PORTS[parts.scheme]


def host_of(header: str, scheme: str) -> tuple[str, int] | None:
    """Name and port in a ``Host`` header; None if it holds no name."""
    try:
        parts = urlsplit(f"//{header}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname, port if port is not None else _PORTS.get(scheme, 80)


def is_same_origin(origin: Origin, host: str) -> bool:
    """Whether a page is of the server that a request with this ``Host`` header came to.

    The scheme is not compared: behind a proxy that does TLS, the server does not know which one its clients use.
    """
    return host_of(host, origin[0]) == origin[1:]


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
