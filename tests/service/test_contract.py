"""The contract's files say what the code does, and a real conversation keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.contract import as_text, asyncapi, openapi
from service.wire import messages
from service.wire.events import encode_packet
from service.wire.messages import PROTOCOL_VERSION, MessageType
from tests.service.harness import SENSOR, RefusedError, Stream, hello, random_events

DOCS = Path(__file__).resolve().parents[2] / "docs"


def follows(document: object, schema: str) -> bool:
    """Whether a document is as the AsyncAPI file says; fails with the reason if not."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": asyncapi()["components"]}
    jsonschema_rs.validate(whole, document)
    return True


@pytest.mark.parametrize(("name", "make"), [("openapi.json", openapi), ("asyncapi.json", asyncapi)])
def test_the_files_are_those_that_the_code_gives(name: str, make: Any) -> None:
    assert (DOCS / name).read_text() == as_text(make()), "run: python -m service.contract"


def test_every_kind_of_message_is_described_once_and_on_its_side() -> None:
    document = asyncapi()
    described = {m["x-message-type"] for m in document["components"]["messages"].values() if "x-message-type" in m}
    assert described == {int(type) for type in MessageType}
    for action, is_servers in (("fromClient", False), ("fromServer", True)):
        names = [each["$ref"].rsplit("/", 1)[1] for each in document["operations"][action]["messages"]]
        found = [MessageType[name] for name in names if name.isupper()]
        assert found
        assert all((type >= 128) is is_servers for type in found)
    assert document["info"]["version"].split(".")[0] == str(PROTOCOL_VERSION)


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                target: Any = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)


CONVERSATIONS: list[dict[str, Any]] = [
    {},
    {"mask": "png", "metrics": False, "gaps": "leak", "deadline_ms": 50.0},
    {"frames": {"seed": 3}},
    {"filter": {"background_activity_us": 5_000, "hot_pixel": {}}},
]


def test_a_conversation_keeps_to_the_contract(server: str) -> None:
    events = random_events(8, windows=2)
    for fields in CONVERSATIONS:
        assert follows(hello(**fields), "Hello")
        with Stream(server, hello(**fields)) as stream:
            assert follows(stream.welcome, "Welcome")
            if "frames" in fields:
                continue
            stream.socket.send(messages.encode_events(1, encode_packet(events, SENSOR)))
            kinds = []
            while MessageType.ACK not in kinds:
                message = stream.message()
                kinds.append(message.type)
                if message.type is MessageType.RESULT:
                    assert follows(messages.decode_result(message.payload)[0], "Result")
                else:
                    assert follows(json.loads(bytes(message.payload)), "Ack")
            assert MessageType.RESULT in kinds
            resumed = {"type": "hello", "version": 1, "resume": stream.token}
            assert follows(resumed, "ResumeHello")
        with Stream(server, resumed) as stream:
            assert follows(stream.welcome, "Welcome")


def test_a_refusal_keeps_to_the_contract(server: str) -> None:
    for greet in (hello(sensor={"width": 0, "height": 1}), hello(model="nothing")):
        with pytest.raises(RefusedError) as refused:
            Stream(server, greet)
        assert follows(refused.value.problem, "Error")
    with pytest.raises(jsonschema_rs.ValidationError):
        follows(hello(sensor={"width": 0, "height": 1}), "Hello")
