"""The wire contract as files that other programs read: OpenAPI for HTTP, AsyncAPI for the WebSocket.

    python -m service.contract --out docs

Both are made from the code: OpenAPI by FastAPI from the routes, AsyncAPI from the message types and the models that the
service validates with. A test holds the files to the code, and what a real conversation says to the schemas.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.filters import REASONS
from service.api.schemas import Hello, ResumeHello, SessionFields
from service.wire.messages import PROTOCOL_VERSION, MessageType

_REF = "#/components/schemas/{model}"
_NUMBER, _INTEGER, _TEXT, _SWITCH = ({"type": name} for name in ("number", "integer", "string", "boolean"))
_WHOLE = {"type": "integer", "minimum": 0}
_HEADER = (
    "A binary message: a header of 16 bytes, little-endian (type u8, flags u8 = 0, reserved u16 = 0, length u32, "
    "sequence u64), then `length` bytes of payload: "
)


@dataclass(frozen=True, slots=True)
class _Binary:
    """What a binary message carries, and the schema of the JSON in it, if there is any."""

    payload: str
    document: str = ""

    def as_message(self, type: MessageType) -> dict[str, Any]:
        extension = {"x-message-type": int(type)}
        if self.document:
            extension["x-json"] = {"$ref": _REF.format(model=self.document)}  # type: ignore[assignment]
        return {
            "name": type.name,
            "title": type.name,
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "format": "binary", "description": _HEADER + self.payload},
            **extension,
        }


_FROM_CLIENT = {
    MessageType.EVENTS: _Binary("one event packet."),
    MessageType.ADVANCE: _Binary("t i64, in microseconds: every event before it has been sent."),
    MessageType.RESET: _Binary("nothing. Membranes to rest, windows from 0 again."),
    MessageType.END: _Binary("nothing. The open window is answered, and the session ends with close code 1000."),
    MessageType.FLUSH: _Binary("nothing. The open window is answered now, if it holds events."),
    MessageType.FRAME: _Binary("t i64, width u16, height u16, encoding u8, 3 bytes of 0, then pixels or a picture."),
}
_FROM_SERVER = {
    MessageType.RESULT: _Binary("u32 n, n bytes of JSON, then the mask. `sequence` is the window's index.", "Result"),
    MessageType.ACK: _Binary("JSON. `sequence` is the number of the last message that is answered.", "Ack"),
    MessageType.GOAWAY: _Binary("JSON. The server is about to stop; resume elsewhere.", "GoAway"),
}


def asyncapi() -> dict[str, Any]:
    """The WebSocket as an AsyncAPI 3.0 document."""
    client = {type.name: each.as_message(type) for type, each in _FROM_CLIENT.items()}
    server = {type.name: each.as_message(type) for type, each in _FROM_SERVER.items()}
    first = {name: _text(name, schema) for name, schema in (("hello", "Hello"), ("resume", "ResumeHello"))}
    answer = {name: _text(name, schema) for name, schema in (("welcome", "Welcome"), ("error", "Error"))}
    from_client, from_server = [*first, *client], [*answer, *server]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Spikeseg stream",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": "Events or frames in, a class mask for each window out. The meaning of every field is in "
            "docs/protocol.md. The client speaks first, with a hello; binary messages follow its welcome.",
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8000", "protocol": "ws"}},
        "channels": {
            "stream": {
                "address": "/v1/stream",
                "bindings": {
                    "ws": {"query": {"type": "object", "properties": {"session": {"$ref": _REF.format(model="Id")}}}}
                },
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*from_client, *from_server)},
            }
        },
        "operations": {
            "fromClient": _operation("receive", from_client),
            "fromServer": _operation("send", from_server),
        },
        "components": {"messages": {**first, **answer, **client, **server}, "schemas": _schemas()},
    }


def openapi() -> dict[str, Any]:
    """The HTTP calls as an OpenAPI document."""
    from service.app import create_app
    from service.settings import Settings

    return create_app(Settings()).openapi()


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    messages = [{"$ref": f"#/channels/stream/messages/{name}"} for name in names]
    return {"action": action, "channel": {"$ref": "#/channels/stream"}, "messages": messages}


def _text(name: str, schema: str) -> dict[str, Any]:
    return {"name": name, "title": f"{name} (a text message)", "payload": {"$ref": _REF.format(model=schema)}}


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for model in (Hello, ResumeHello):
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    session: dict[str, Any] = dict.fromkeys(SessionFields.model_fields, True)
    layer = _object(name=_TEXT, neurons=_WHOLE, spikes=_WHOLE, firing_rate=_NUMBER, sops=_NUMBER)
    return schemas | {
        "Id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"},
        "Welcome": _object(
            **session,
            type={"const": "welcome"},
            version={"const": PROTOCOL_VERSION},
            session={"$ref": _REF.format(model="Id")},
            resume=_TEXT,
            request_id=_TEXT,
            classes={"type": "array", "items": _object(id=_WHOLE, name=_TEXT, color=_list(_WHOLE, 3))},
            unlabelled=_WHOLE,
            next_sequence=_WHOLE,
            next_window=_WHOLE,
            acked=_WHOLE,
            credit=_WHOLE,
            max_message_bytes=_WHOLE,
        ),
        "Error": {
            "type": "object",
            "description": "A problem (RFC 9457) before the connection is closed; `code` is the close code.",
            "required": ["type", "problem", "title", "status", "detail", "code"],
            "properties": {
                "type": {"const": "error"},
                "problem": _TEXT,
                "title": _TEXT,
                "status": _WHOLE,
                "detail": _TEXT,
                "code": _WHOLE,
                "errors": {"type": "array", "items": _object(field=_TEXT, message=_TEXT)},
                "retry_after": _WHOLE,
                "request_id": _TEXT,
            },
        },
        "Ack": _object(acked=_WHOLE, credit=_WHOLE),
        "GoAway": _object(reason=_TEXT),
        "Result": _object(
            optional=("activity",),
            window=_WHOLE,
            t_start=_INTEGER,
            t_end=_INTEGER,
            events=_WHOLE,
            windows=_WHOLE,
            skipped=_object(
                optional=("filtered",),
                gap=_WHOLE,
                dropped=_WHOLE,
                late_events=_WHOLE,
                restart=_SWITCH,
                filtered=_object((), **dict.fromkeys(REASONS, _WHOLE)),
            ),
            mask=_object(encoding={"enum": ["zlib", "raw", "png"]}, width=_WHOLE, height=_WHOLE, bytes=_WHOLE),
            activity={"$ref": _REF.format(model="Activity")},
            latency_ms=_object(decode=_NUMBER, wait=_NUMBER, compute=_NUMBER, encode=_NUMBER, total=_NUMBER),
            deadline_missed=_SWITCH,
            batch=_WHOLE,
            class_share={"type": "array", "items": _NUMBER},
            acked=_WHOLE,
        ),
        "Activity": _object(
            layers={"type": "array", "items": layer},
            firing_rate=_NUMBER,
            sops=_NUMBER,
            macs_ann=_NUMBER,
            energy_estimate_j=_object(snn=_NUMBER, ann=_NUMBER),
        ),
    }


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], length: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the two files")
    folder = parser.parse_args().out
    for name, document in (("openapi.json", openapi()), ("asyncapi.json", asyncapi())):
        (folder / name).write_text(as_text(document))
        print(folder / name)


def as_text(document: dict[str, Any]) -> str:
    """As the files hold it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
