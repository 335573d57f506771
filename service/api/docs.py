"""``/docs``: the HTTP API in Swagger UI, served from here, so that it works offline and under the page's policy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from service.api.callers import public, takes
from service.auth import Scope

# The token is the viewer's, kept by the same browser tab.
_START = """\
const token = sessionStorage.getItem('spikeseg.token');
window.ui = SwaggerUIBundle({
  url: document.currentScript.dataset.api,
  dom_id: '#swagger-ui',
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  requestInterceptor(request) {
    if (token && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token}`;
    return request;
  },
});
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>spikeseg · HTTP API</title>
  <link rel="icon" href="viewer/favicon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; the description itself is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js" data-api="openapi.json"></script>
</body>
</html>
"""


def add_docs(app: FastAPI) -> None:
    """Give an app its ``/docs`` and ``/openapi.json``."""

    @app.get("/openapi.json", include_in_schema=False)
    @takes(Scope.READ)
    async def description() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    @public
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    @app.get("/docs/start.js", include_in_schema=False)
    @public
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    app.mount("/docs/assets", public(StaticFiles(directory=_assets())), name="docs-assets")


def _assets() -> Path:
    """Where the package fastapi-swagger has Swagger UI; nothing else of it is used."""
    spec = find_spec("fastapi_swagger")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("fastapi-swagger is not installed: pip install 'spikeseg[serve]'")
    return Path(spec.origin).parent / "resources"
