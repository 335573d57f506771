"""A page of your own that segments its pictures: ``python -m clients.examples.browser [URL [PORT]]``.

The page, ``browser_page/``, is plain HTML and JavaScript without a library. It does not come from the server, so the
server must allow it: ``SPIKESEG_ALLOWED_ORIGINS=http://127.0.0.1:8080``.
"""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

PAGE = Path(__file__).parent / "browser_page"


def main(url: str = "http://127.0.0.1:8000", port: str = "8080") -> None:
    """Serve the page, and print its address."""
    with ThreadingHTTPServer(("127.0.0.1", int(port)), partial(SimpleHTTPRequestHandler, directory=PAGE)) as server:
        print(f"http://127.0.0.1:{server.server_port}/?{urlencode({'server': url})}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
