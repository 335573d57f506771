"""Where the service is, and what a client shows and checks to be let in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import httpx

from clients.errors import ConnectError


@dataclass(frozen=True, slots=True)
class Access:
    """A service's address, and the way in.

    Attributes
    ----------
    base_url : str
        As it was given.
    http : str
        Address that paths are put behind.
    stream : str
        Address of the WebSocket.
    headers : dict
        For every request and handshake.
    tls : ssl.SSLContext or None
        None if the connection is not encrypted.
    """

    base_url: str
    http: str
    stream: str
    headers: dict[str, str] = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)


def access(base_url: str, *, token: str | None = None, verify: bool | str | ssl.SSLContext = True) -> Access:
    """Find the way to a service.

    Parameters
    ----------
    base_url : str
        As ``http://127.0.0.1:8000``; a path before ``/v1`` is kept.
    token : str, optional
        Sent as ``Authorization: Bearer``.
    verify : bool, str or ssl.SSLContext
        Whether the service's certificate is checked; a file of certificates to trust; or a context of one's own.

    Raises
    ------
    ConnectError
        If ``base_url`` is no address of HTTP, the token has characters that no header may hold, or the certificates
        cannot be read.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConnectError(f"{base_url!r} is not an address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConnectError(f"{base_url!r} is not an address: it should begin with http:// or https://")
    encrypted = url.scheme == "https"
    stream = url.copy_with(scheme="wss" if encrypted else "ws", path=url.path.rstrip("/") + "/v1/stream", query=None)
    headers = {}
    if token is not None:
        if not token or not all("!" <= character <= "~" for character in token):
            raise ConnectError("the token may hold only visible ASCII characters")
        headers["Authorization"] = f"Bearer {token}"
    return Access(base_url, str(url), str(stream), headers, _context(verify) if encrypted else None)


def _context(verify: bool | str | ssl.SSLContext) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, str):
        try:
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise ConnectError(f"the certificates in {verify} cannot be read: {error}") from None
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
