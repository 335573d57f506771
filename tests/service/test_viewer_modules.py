"""The viewer's modules against the bytes of the Python side, in a real browser."""

from __future__ import annotations

import base64
import json
import re
import zlib
from itertools import pairwise
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from selenium import webdriver

from models.events import EventBatch, SensorSize
from service.wire import events as wire_events
from service.wire import messages as wire_messages
from service.wire.events import EventEncoding
from service.wire.frames import decode_frame
from service.wire.messages import MessageType
from tests.service.browser import VIEWER_SENSOR as SENSOR
from tests.service.browser import Viewer, b64, recording
from tests.service.harness import REPOSITORY, running_server
from tests.service.real_servers import running_redis
from tests.vectors.make import PATH

PROTOCOL = REPOSITORY / "docs" / "protocol.md"


def as_lists(events: EventBatch) -> dict[str, list[int]]:
    return {name: getattr(events, name).tolist() for name in "txyp"}


# protocol.js ----------------------------------------------------------------------------------------------------------

IMPORT_PROTOCOL = "const protocol = await import('/viewer/protocol.js');"


@pytest.fixture
def modules(chromium: webdriver.Chrome, server: str) -> Viewer:
    """A page of the server's origin in which nothing runs, to import modules into."""
    viewer = Viewer(chromium, server)
    chromium.get(viewer.url + "viewer/favicon.svg")
    return viewer


@pytest.mark.parametrize("encoding", list(EventEncoding))
def test_reads_the_packets_that_python_writes(modules: Viewer, encoding: EventEncoding) -> None:
    events = recording(3000)
    cuts = [0, 1, 1000, 1000, 3000]  # one packet of one event, one of none
    packets = b"".join(
        wire_events.encode_packet(events[a:b], SENSOR, seq=k, encoding=encoding, time_base=int(events.t[0]))
        for k, (a, b) in enumerate(pairwise(cuts))
    )
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const { width, height, t, x, y, p } = protocol.parseRecording(bytes(a[0]));
        return { width, height, t: [...t], x: [...x], y: [...y], p: [...p] };
        """,
        b64(packets),
    )
    assert got == {"width": SENSOR.width, "height": SENSOR.height, **as_lists(events)}


def test_writes_the_messages_that_python_reads(modules: Viewer) -> None:
    events = recording(2000)
    far = EventBatch(events.t + 2**45, events.x, events.y, events.p)
    packet = wire_events.encode_packet(far, SENSOR, encoding=EventEncoding.WIDE)
    written = modules.run(
        IMPORT_PROTOCOL
        + """
        const recording = protocol.parseRecording(bytes(a[0]));
        return [
          protocol.encodeEvents(41, recording, 500, 1500),
          protocol.encodeAdvance(42, 2 ** 45 + 7050000),
          protocol.encodeReset(43),
          protocol.encodeEnd(2 ** 40),
          protocol.encodeFrame(44, 2 ** 45, { width: 3, height: 2, grey: Uint8Array.of(1, 2, 3, 4, 5, 255) }),
        ].map(text);
        """,
        b64(packet),
    )
    sent, advance, reset, end, look = (wire_messages.decode_message(base64.b64decode(text)) for text in written)
    assert (sent.type, sent.sequence) == (MessageType.EVENTS, 41)
    decoded = wire_events.decode_packet(sent.payload)
    assert decoded.sensor == SENSOR
    assert as_lists(decoded.events) == as_lists(far[500:1500])
    assert (advance.type, advance.sequence) == (MessageType.ADVANCE, 42)
    assert wire_messages.decode_advance(advance.payload) == 2**45 + 7_050_000
    assert (reset.type, reset.sequence, len(reset.payload)) == (MessageType.RESET, 43, 0)
    assert (end.type, end.sequence, len(end.payload)) == (MessageType.END, 2**40, 0)
    assert (look.type, look.sequence) == (MessageType.FRAME, 44)
    frame = decode_frame(look.payload, SensorSize(3, 2))
    assert frame.t_us == 2**45
    assert frame.grey.tolist() == [[1, 2, 3], [4, 5, 255]]


def test_keeps_to_the_test_vectors_of_the_protocol(modules: Viewer) -> None:
    vectors = {each["name"]: each for each in json.loads(PATH.read_text())}
    data = {name: b64(bytes.fromhex(each["hex"])) for name, each in vectors.items() if "hex" in each}
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const read = (name) => bytes(a[0][name]);
        const { t, x, y, p } = protocol.parseRecording(read('event packet, 13-byte records'));
        const result = protocol.parseMessage(read('RESULT'));
        const zlib = { encoding: 'zlib', width: 3, height: 2 };
        return {
          events: { t: [...t], x: [...x], y: [...y], p: [...p] },
          result: { window: result.window, metadata: result.meta, mask: [...result.mask] },
          mask: [...(await protocol.decodeMask(new Uint8Array(read('mask, zlib')), zlib))],
          ack: protocol.parseMessage(read('ACK')),
          goaway: protocol.parseMessage(read('GOAWAY')),
          written: [protocol.encodeAdvance(2, 1050000), protocol.encodeReset(3), protocol.encodeEnd(4)].map(text),
        };
        """,
        data,
    )
    mask = [id for row in vectors["RESULT"]["holds"]["mask"] for id in row]
    assert got["events"] == vectors["event packet, 13-byte records"]["holds"]["events"]
    assert got["result"] == {"window": 3, "metadata": vectors["RESULT"]["holds"]["metadata"], "mask": mask}
    assert got["mask"] == mask
    assert (got["ack"]["answered"], got["ack"]["acked"]) == (6, 5)
    assert got["goaway"]["kind"] == MessageType.GOAWAY
    assert got["written"] == [data[name] for name in ("ADVANCE", "RESET", "END")]


@pytest.mark.parametrize("encoding", ["zlib", "raw"])
def test_reads_the_answers_that_python_writes(modules: Viewer, encoding: str) -> None:
    mask = np.random.default_rng(1).integers(0, 6, (26, 34)).astype(np.uint8).tobytes()
    data = zlib.compress(mask, 1) if encoding == "zlib" else mask
    metadata = {"window": 7, "µ": "ß", "mask": {"encoding": encoding, "width": 34, "height": 26, "bytes": len(data)}}
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const result = protocol.parseMessage(bytes(a[0]));
        const ids = await protocol.decodeMask(result.mask, result.meta.mask);
        return { window: result.window, meta: result.meta, ids: text(ids), ack: protocol.parseMessage(bytes(a[1])) };
        """,
        b64(wire_messages.encode_result(7, metadata, data)),
        b64(wire_messages.encode_ack(99, 98, 16)),
    )
    ack = {"kind": 130, "answered": 99, "acked": 98, "credit": 16}
    assert got == {"window": 7, "meta": metadata, "ids": b64(mask), "ack": ack}


def broken(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


def test_refuses_what_is_not_a_recording(modules: Viewer) -> None:
    packet = wire_events.encode_packet(recording(3), SENSOR)
    back = wire_events.encode_packet(recording(3), SENSOR, encoding=EventEncoding.WIDE)
    cases = {
        "cut off": packet[:-1],
        "is cut off": packet[:20],
        "no event packet": packet + bytes(40),
        "unknown encoding 9": broken(packet, 4, 9),
        "outside the 346×260": broken(packet, 37, 0x7F),
        "Time goes back at event 1": back[:32] + back[45:58] + back[32:45] + back[58:],
        "polarity 7": broken(back, 44, 7),
        "no events": wire_events.encode_packet(EventBatch.empty(), SENSOR),
        "another for 346×260": packet + wire_events.encode_packet(EventBatch.empty(), SensorSize(10, 10)),
    }
    for reason, data in cases.items():
        said = modules.run(
            IMPORT_PROTOCOL
            + """
            try {
              protocol.parseRecording(bytes(a[0]));
              return null;
            } catch (error) {
              return `${error.name}: ${error.message}`;
            }
            """,
            b64(data),
        )
        assert (said or "").startswith("FormatError"), (reason, said)
        assert reason in said


# format.js ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("si(4_560_000)", "4.56 M"),
        ("si(999_999)", "1.00 M"),
        ("si(1.9e-3, 'J')", "1.90 mJ"),
        ("si(0, 'J')", "0 J"),
        ("si(NaN)", "–"),
        ("percent(0.4333)", "43.3 %"),
        ("percent(0.0065)", "0.65 %"),
        ("milliseconds(7.24)", "7.2 ms"),
        ("milliseconds(1200)", "1.2 s"),
        ("count(1234567)", "1 234 567"),
        ("ratio(37.8)", "38×"),
        ("ratio(1.44)", "1.4×"),
        ("clock(63_935_000)", "1:03.93"),
    ],
)
def test_numbers_as_text(modules: Viewer, call: str, text: str) -> None:
    shown = modules.run(f"const format = await import('/viewer/format.js'); return format.{call}")
    assert shown.replace("\u202f", " ") == text


# closing.js -----------------------------------------------------------------------------------------------------------


def test_there_are_words_for_every_close_code_of_the_protocol(modules: Viewer) -> None:
    codes = [int(code) for code in re.findall(r"^\| (4\d{3}|1012) \|", PROTOCOL.read_text(), re.MULTILINE)]
    assert len(codes) > 7
    said = modules.run(
        """
        const { explainClose } = await import('/viewer/closing.js');
        return [...a[0], 4999].map((code) => explainClose(code, 'as the server has it'));
        """,
        codes,
    )
    assert [each for each in said[:-1] if "as the server has it" in each] == []
    assert said[-1] == "as the server has it (code 4999)"


# connection.js --------------------------------------------------------------------------------------------------------

FAKE_SERVER = """
const { StreamConnection, Link } = await import('/viewer/connection.js');
const sockets = [];
class FakeSocket {
  sent = [];
  constructor() {
    sockets.push(this);
    queueMicrotask(() => this.onopen?.());
  }
  send(data) {
    this.sent.push(typeof data === 'string' ? JSON.parse(data) : Number(new DataView(data).getBigUint64(8, true)));
  }
  close() {}
  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  welcome(next) {
    this.say({ type: 'welcome', resume: 'TOKEN', next_sequence: next, next_window: 0 });
  }
  binary(kind, sequence, payload) {
    const view = new DataView(new ArrayBuffer(16 + payload.length));
    view.setUint8(0, kind);
    view.setUint32(4, payload.length, true);
    view.setBigUint64(8, BigInt(sequence), true);
    new Uint8Array(view.buffer, 16).set(payload);
    this.onmessage({ data: view.buffer });
  }
  ack(sequence) {
    this.binary(130, sequence, new TextEncoder().encode(JSON.stringify({ acked: sequence })));
  }
  result(window) {
    this.binary(129, window, Uint8Array.of(2, 0, 0, 0, 0x7b, 0x7d));
  }
}
const log = [];
const connection = new StreamConnection('ws://x', { model: 'm' }, {
  onState: (state) => log.push(state),
  onWelcome: (welcome, resumed) => log.push(resumed ? 'resumed' : 'welcome'),
  onResult: ({ window }) => log.push(window),
  onAck: () => {},
  onEnd: ({ code, lost }) => log.push(`end ${code} ${lost}`),
}, { WebSocket: FakeSocket });
const message = (sequence) => {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(8, BigInt(sequence), true);
  return view.buffer;
};
const until = async (condition) => {
  for (let i = 0; i < 400 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 5));
  if (!condition()) throw new Error(`waited in vain: ${condition}`);
};
connection.open();
await until(() => sockets[0].sent.length);
"""


def test_resume_sends_again_what_was_not_acknowledged(modules: Viewer) -> None:
    got = modules.run(
        FAKE_SERVER
        + """
        sockets[0].welcome(1);
        for (let i = 0; i < 4; i++) connection.send(message);
        sockets[0].ack(1);
        sockets[0].result(0);
        sockets[0].onclose({ code: 1006 });
        connection.send(message);
        await until(() => sockets[1]?.sent.length);
        sockets[1].welcome(3);
        sockets[1].result(0);
        sockets[1].result(1);
        sockets[1].ack(2);
        sockets[1].ack(5);
        sockets[1].onclose({ code: 1012 });
        await until(() => sockets[2]?.sent.length);
        sockets[2].welcome(6);
        connection.send(message);
        const { state } = connection;
        connection.close();
        return { state, log, sent: sockets.map((socket) => socket.sent) };
        """
    )
    hello = {"type": "hello", "version": 1}
    assert got["sent"] == [
        [{**hello, "model": "m"}, 1, 2, 3, 4],
        [{**hello, "resume": "TOKEN"}, 2, 3, 4, 5],
        [{**hello, "resume": "TOKEN"}, 6, 7],
    ]
    assert got["state"] == "live"
    assert [entry for entry in got["log"] if isinstance(entry, int)] == [0, 1]  # the repeated answer is not shown twice


@pytest.mark.parametrize(
    ("after", "end"),
    [
        (
            "sockets[1].say({ type: 'error', code: 4404, title: 'gone' }); sockets[1].onclose({ code: 4404 });",
            "end 4404 true",
        ),
        ("sockets[1].welcome(1);", "end 4404 true"),
        ("sockets[1].welcome(3); sockets[1].onclose({ code: 4422 });", "end 4422 false"),
        ("sockets[1].welcome(3); sockets[1].onclose({ code: 1000 });", "end 1000 false"),
        ("sockets[1].welcome(3); sockets[1].binary(77, 0, []);", "end 4422 false"),
    ],
    ids=["forgotten", "older snapshot", "unusable", "ended", "nonsense"],
)
def test_sessions_that_cannot_go_on_are_reported_once(modules: Viewer, after: str, end: str) -> None:
    log = modules.run(
        FAKE_SERVER
        + """
        sockets[0].welcome(1);
        connection.send(message);
        connection.send(message);
        sockets[0].ack(2);
        sockets[0].onclose({ code: 1006 });
        await until(() => sockets[1]?.sent.length);
        """
        + after
        + "await new Promise((resolve) => setTimeout(resolve, 600)); return { log, sockets: sockets.length };"
    )
    assert log["log"][-2:] == ["closed", end]
    assert log["sockets"] == 2


def test_a_full_server_is_asked_again_and_nobody_waits_for_a_paused_page(modules: Viewer) -> None:
    got = modules.run(
        FAKE_SERVER
        + """
        sockets[0].say({ type: 'error', code: 4429, title: 'full' });
        sockets[0].onclose({ code: 4429 });
        const waiting = connection.state;
        await until(() => sockets[1]?.sent.length);
        connection.eager = false;
        sockets[1].onclose({ code: 1006 });
        const dormant = connection.state;
        await new Promise((resolve) => setTimeout(resolve, 900));
        const before = sockets.length;
        connection.eager = true;
        return { waiting, dormant, before, after: sockets.length, hello: sockets[1].sent[0] };
        """
    )
    assert (got["waiting"], got["dormant"], got["before"], got["after"]) == ("waiting", "dormant", 2, 3)
    assert got["hello"] == {"type": "hello", "version": 1, "model": "m"}


STREAM_FRAMES = """
const { StreamConnection } = await import('/viewer/connection.js');
const { encodeFrame } = await import('/viewer/protocol.js');
const until = async (condition) => {
  for (let i = 0; i < 6000 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  if (!condition()) throw new Error(`waited in vain: ${condition}`);
};
let said = window.said = [];
let answered = 0;
const url = new URL('/v1/stream', location.href);
url.protocol = 'ws:';
const connection = window.connection = new StreamConnection(url, { sensor: { width: 64, height: 48 }, frames: {} }, {
  onState: () => {},
  onWelcome: () => {},
  onResult: () => {},
  onAck: (sequence) => (answered = sequence),
  onKept: (kept) => said.push(kept),
  onEnd: ({ code }) => said.push(code),
}, { mostKeptBytes: 40000 });
connection.open();
await until(() => connection.live);
const picture = { width: 64, height: 48, grey: new Uint8Array(64 * 48) };
let most = 0;
for (let i = 1; i <= a[0]; i++) {
  connection.send((sequence) => encodeFrame(sequence, i * 1000, picture));
  await until(() => answered === i);
  most = Math.max(most, connection.keptBytes);
}
return { most, said: [...said], kept: connection.keptBytes };
"""


def test_what_is_kept_while_the_store_is_away_has_a_bound(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis, running_server(store_url=redis.url, store_seconds=0.5) as server:
        page = Viewer(chromium, server)
        chromium.get(page.url + "viewer/favicon.svg")
        assert page.run(STREAM_FRAMES, 8) == {"most": ANY, "said": [], "kept": ANY}
        redis.freeze()
        try:
            got = page.run(STREAM_FRAMES, 60)
        finally:
            redis.thaw()
        assert got["said"] == [False]
        assert 35_000 < got["kept"] <= got["most"] < 45_000
        page.run(
            """
            for (let i = 0; i < 6000 && window.said.length < 2; i++) await new Promise((done) => setTimeout(done, 10));
            """
        )
        got = page.run(
            "return { said: window.said, kept: window.connection.keptBytes, room: window.connection.hasRoom };"
        )
        assert got == {"said": [False, True], "kept": 0, "room": True}


# player.js ------------------------------------------------------------------------------------------------------------

PLAYER = """
const { Player } = await import('/viewer/player.js');
const { parseRecording } = await import('/viewer/protocol.js');
const recording = parseRecording(bytes(a[0]));
const out = [];
const player = new Player(recording, a[1], {
  events: (from, to) => out.push(['events', from, to]),
  advance: (time) => out.push(['advance', time]),
  reset: () => out.push(['reset']),
});
player.begin(player.start);
player.play();
let now = 0;
player.tick(now);
"""


@pytest.mark.parametrize("window_us", [10_000, 33_333, 50_000])
def test_a_loop_sends_every_event_once_in_small_chunks(modules: Viewer, window_us: int) -> None:
    events = recording(4000, 400_000)
    out = modules.run(
        PLAYER
        + """
        while (!out.some(([kind]) => kind === 'reset')) {
          player.tick(now += 7);
          player.onAck(out.length);
        }
        return out;
        """,
        b64(wire_events.encode_packet(events, SENSOR)),
        window_us,
    )
    chunks = [entry[1:] for entry in out if entry[0] == "events"]
    assert [a for a, _ in chunks] == [0, *(b for _, b in chunks[:-1])]
    assert chunks[-1][1] == len(events)
    assert all(events.t[b - 1] - events.t[a] < 10_000 for a, b in chunks)
    advances = [entry[1] for entry in out if entry[0] == "advance"]
    first, last = int(events.t[0]) // window_us, int(events.t[-1]) // window_us
    assert advances == [(k + 1) * window_us for k in range(first, last + 1)]
    received = 0
    for kind, *rest in out[:-1]:
        if kind == "events":
            received = rest[1]
        else:  # ADVANCE tells the truth, and closes a window before anything of the next is sent
            assert received == int(np.searchsorted(events.t, rest[0]))
    assert out[-1] == ["reset"]


def test_playback_waits_for_a_server_that_does_not_answer(modules: Viewer) -> None:
    got = modules.run(
        PLAYER
        + """
        for (let i = 0; i < 400; i++) player.tick(now += 10);
        const stalled = out.filter(([kind]) => kind === 'advance').length;
        const { slow } = player;
        player.onAck(out.length);
        for (let i = 0; i < 400; i++) player.tick(now += 10);
        return { stalled, slow, after: out.filter(([kind]) => kind === 'advance').length };
        """,
        b64(wire_events.encode_packet(recording(), SENSOR)),
        50_000,
    )
    assert got == {"stalled": 3, "slow": True, "after": 6}


def test_short_loops_do_not_run_ahead_either(modules: Viewer) -> None:
    out = modules.run(
        PLAYER + "for (let i = 0; i < 400; i++) player.tick(now += 10); return out;",
        b64(wire_events.encode_packet(recording(100, 40_000), SENSOR)),
        50_000,
    )
    assert sum(entry[0] == "advance" for entry in out) == 3
