"""The Open Inference Protocol, driven by NVIDIA's own client: the same masks, and sequences as Triton has them."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from service.api.lines import Line, Lines
from service.errors import BacklogError
from service.wire.tensors import HEADER_LENGTH, Tensor, encode_body
from tests.service.harness import (
    PATIENCE_S,
    SENSOR,
    WINDOW_US,
    HttpSession,
    Result,
    Stream,
    hello,
    make_events,
    one_connection,
    problem_of,
    random_events,
    running_server,
    split,
)
from tests.service.real_servers import running_redis
from tests.service.replicas import Replica

WINDOWS = 4
END_US = WINDOWS * WINDOW_US
EVENTS = random_events(71, windows=WINDOWS)
CUTS = [700, 2000, 2001, 4500]
MODEL = "edge-s"
OUTPUTS = ["mask", "window", "events_in", "firing_rate", "sops", "energy_snn_j", "class_share"]
SENSOR_ARRAY = np.array([SENSOR.width, SENSOR.height], np.int32)
NO_START = "must specify the START flag on the first request of the sequence"
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    """An answer that has been read from its connection."""

    status: int
    headers: dict[str, str]
    content: bytes


class Triton:
    """NVIDIA's client, for one thread, with the tensors of our models."""

    def __init__(self, server: str) -> None:
        # Here, so that gevent is there for the tests that use it only.
        import tritonclient.http

        self.library = tritonclient.http
        self.client = tritonclient.http.InferenceServerClient(server.removeprefix("http://"))
        self.response: dict[str, Any] = {}

    def infer(
        self,
        events: EventBatch | None = None,
        *,
        model: str = MODEL,
        sensor: SensorSize | None = None,
        until_us: int | None = None,
        binary: bool = True,
        names: Sequence[str] = (),
        **options: Any,
    ) -> Outputs:
        """Send a request; the outputs."""
        inputs = []
        if events is not None:
            inputs.append(self._input("events", rows(events), binary))
        if sensor is not None:
            inputs.append(self._input("sensor", np.array([sensor.width, sensor.height], np.int32), binary))
        if until_us is not None:
            inputs.append(self._input("until_us", np.array([until_us], np.int64), binary))
        names = names or (() if binary else OUTPUTS)
        outputs = [self.library.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = self.client.infer(model, inputs, outputs=outputs or None, **options)
        self.response = result.get_response()
        return {output["name"]: result.as_numpy(output["name"]) for output in self.response["outputs"]}

    def refusal(self, *args: Any, **options: Any) -> tuple[str, str]:
        """Status and message of a request that must be refused."""
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException) as caught:
            self.infer(*args, **options)
        return caught.value.status(), caught.value.message()

    def _input(self, name: str, array: NDArray[Any], binary: bool) -> Any:
        from tritonclient.utils import np_to_triton_dtype

        tensor = self.library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        return tensor.set_data_from_numpy(array, binary_data=binary)


@contextmanager
def triton_client(server: str) -> Iterator[Triton]:
    """NVIDIA's client of a server."""
    triton = Triton(server)
    with triton.client:
        yield triton


@pytest.fixture
def triton(server: str) -> Iterator[Triton]:
    with triton_client(server) as client:
        yield client


@pytest.fixture(scope="module")
def tight_server() -> Iterator[str]:
    """A server that is soon full, and does not wait for long."""
    with running_server(
        max_sessions=3,
        idle_seconds=1.5,
        reap_seconds=0.1,
        queue_messages=2,
        max_body_bytes=20_000,
        max_json_bytes=15_000,
    ) as url:
        yield url


@pytest.fixture(scope="module")
def reference(server: str) -> Outputs:
    return as_outputs(one_connection(server, EVENTS, END_US))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A sequence of the test's own."""
    return f"{request.node.name}"


def rows(events: EventBatch) -> NDArray[np.int64]:
    """Events as the tensor has them."""
    return np.stack([events.t, events.x, events.y, events.p], 1).astype(np.int64)


def as_outputs(results: Sequence[Result], sensor: SensorSize = SENSOR) -> Outputs:
    """Results of the WebSocket as the tensors that say the same."""
    activity = [result.activity or {} for result in results]
    return {
        "mask": np.array([result.mask for result in results], np.uint8).reshape(-1, sensor.height, sensor.width),
        "window": np.array([(r.window, r.t_start, r.t_end) for r in results], np.int64).reshape(-1, 3),
        "events_in": np.array([result.events for result in results], np.int64),
        "firing_rate": np.array([a["firing_rate"] for a in activity], np.float32),
        "sops": np.array([a["sops"] for a in activity], np.float64),
        "energy_snn_j": np.array([a["energy_estimate_j"]["snn"] for a in activity], np.float64),
        "class_share": np.array([r.metadata["class_share"] for r in results], np.float32).reshape(-1, 6),
    }


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several requests, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}


def assert_same(found: Outputs, expected: Outputs) -> None:
    """Bit for bit, types and shapes included."""
    assert list(found) == OUTPUTS
    for name in OUTPUTS:
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), name


WINDOW = {"window_us": WINDOW_US}


def run_sequence(triton: Triton, sequence_id: int | str, cuts: Sequence[int] = CUTS, **options: Any) -> Outputs:
    """All of ``EVENTS`` as one sequence."""
    parts = split(EVENTS, cuts)
    found = []
    for index, part in enumerate(parts):
        first, last = index == 0, index == len(parts) - 1
        begin = {"sensor": SENSOR, "parameters": WINDOW} if first else {}
        flags = {"sequence_start": first, "sequence_end": last}
        found.append(triton.infer(part, sequence_id=sequence_id, **begin, **flags, **options))
    return joined(found)


# What the server and its models say of themselves.


def test_the_server_and_its_models_describe_themselves(triton: Triton) -> None:
    client = triton.client
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "spikeseg"
    assert {"binary_tensor_data", "parameters", "sequence"} <= set(metadata["extensions"])
    model = client.get_model_metadata(MODEL)
    assert model == client.get_model_metadata(MODEL, "1")
    assert (model["name"], model["versions"]) == (MODEL, ["1"])
    assert [(t["name"], t["datatype"], t["shape"]) for t in model["inputs"]] == [
        ("events", "INT64", [-1, 4]),
        ("sensor", "INT32", [2]),
        ("until_us", "INT64", [1]),
    ]
    assert [(t["name"], t["datatype"], t["shape"]) for t in model["outputs"]] == [
        ("mask", "UINT8", [-1, -1, -1]),
        ("window", "INT64", [-1, 3]),
        ("events_in", "INT64", [-1]),
        ("firing_rate", "FP32", [-1]),
        ("sops", "FP64", [-1]),
        ("energy_snn_j", "FP64", [-1]),
        ("class_share", "FP32", [-1, 6]),
    ]


def test_the_configuration_is_one_of_a_sequence_model(triton: Triton) -> None:
    config = triton.client.get_model_config(MODEL)
    assert config == triton.client.get_model_config(MODEL, "1")
    assert config["name"] == MODEL
    assert config["platform"]
    assert config["backend"]
    assert config["max_batch_size"] == 0
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 120_000_000
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_INT64", "TYPE_INT32", "TYPE_INT64"]
    assert [tensor["name"] for tensor in config["output"]] == OUTPUTS


def test_models_are_ready_when_asked_for(triton: Triton) -> None:
    index = triton.client.get_model_repository_index()
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in index
    assert len(index) > 1
    for model in index:
        assert triton.client.is_model_ready(model["name"])
        assert triton.client.is_model_ready(model["name"], "1")
    assert not triton.client.is_model_ready(MODEL, "2")
    assert not triton.client.is_model_ready("nope")


def test_the_index_can_be_of_those_that_are_ready(http: httpx.Client) -> None:
    assert http.post("/v2/repository/index", json={"ready": True}).json() == http.post("/v2/repository/index").json()
    problem_of(http.post("/v2/repository/index", json={"ready": 1}), 422)
    problem_of(http.post("/v2/repository/index", content=b"{"), 422)


def test_what_is_not_offered_is_said_so_that_the_client_reads_it(triton: Triton) -> None:
    from tritonclient.utils import InferenceServerException

    client = triton.client
    calls: dict[Callable[[], object], str] = {
        lambda: client.get_model_metadata("nope"): "no model 'nope'",
        lambda: client.get_model_metadata(MODEL, "2"): "version 1 only",
        lambda: client.get_model_config("nope"): "no model 'nope'",
        lambda: client.get_inference_statistics(MODEL): "does not offer",
        lambda: client.get_system_shared_memory_status(): "does not offer",
        lambda: client.load_model(MODEL): "does not offer",
        lambda: client.get_log_settings(): "does not offer",
    }
    for call, says in calls.items():
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "404"
        assert says in caught.value.message()
        assert "exception occurred" not in caught.value.message()


# One request, without a sequence.


@pytest.mark.parametrize("binary", [True, False])
def test_a_single_request_is_answered_from_rest(triton: Triton, reference: Outputs, binary: bool) -> None:
    for _ in range(2):
        found = triton.infer(EVENTS, sensor=SENSOR, binary=binary, request_id="mine", parameters=WINDOW)
        assert_same(found, reference)
        assert triton.response["model_name"] == MODEL
        assert triton.response["model_version"] == "1"
        assert triton.response["id"] == "mine"
        assert ("data" in triton.response["outputs"][0]) != binary


def test_the_outputs_are_those_that_are_asked_for(triton: Triton, reference: Outputs) -> None:
    found = triton.infer(EVENTS, sensor=SENSOR, names=["class_share", "mask"], parameters=WINDOW, model_version="1")
    assert list(found) == ["class_share", "mask"]
    assert np.array_equal(found["mask"], reference["mask"])
    assert "id" not in triton.response


def test_binary_and_json_may_stand_side_by_side(http: httpx.Client, reference: Outputs) -> None:
    outputs = [
        {"name": "mask", "parameters": {"binary_data": True}},
        {"name": "window"},
        {"name": "sops", "parameters": {"binary_data": True}},
    ]
    document = {"parameters": {**WINDOW, "sensor_width": 64, "sensor_height": 48}, "outputs": outputs}
    body, _ = encode_body(document, "inputs", [Tensor("events", rows(EVENTS), False)])
    response = http.post(f"/v2/models/{MODEL}/infer", content=body)
    assert response.status_code == 200, response.text
    length = int(response.headers[HEADER_LENGTH])
    mask, window, sops = json.loads(response.content[:length])["outputs"]
    size = mask["parameters"]["binary_data_size"]
    assert response.content[length : length + size] == reference["mask"].tobytes()
    assert response.content[length + size :] == reference["sops"].tobytes()
    assert window["data"] == reference["window"].ravel().tolist()
    assert sops["shape"] == [WINDOWS]


def test_nested_json_of_a_client_that_writes_nulls(http: httpx.Client, reference: Outputs) -> None:
    inputs = [
        {"name": "events", "shape": [len(EVENTS), 4], "datatype": "INT64", "data": rows(EVENTS).tolist()},
        {"name": "sensor", "shape": [2], "datatype": "INT32", "data": [64, 48], "parameters": {"content_type": "np"}},
    ]
    document = {"id": None, "model_name": MODEL, "parameters": WINDOW, "inputs": inputs, "outputs": None}
    response = http.post(f"/v2/models/{MODEL}/infer", json=document)
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert "id" not in answer
    for output in answer["outputs"]:
        assert output["data"] == reference[output["name"]].astype(reference[output["name"]].dtype).ravel().tolist()


def test_what_clients_tell_triton_alone_is_passed_over(http: httpx.Client, triton: Triton, reference: Outputs) -> None:
    found = triton.infer(EVENTS, sensor=SENSOR, parameters=WINDOW, priority=3, timeout=5_000_000)
    assert_same(found, reference)
    parameters = {"sensor_width": 64, "sensor_height": 48, "triton_enable_empty_final_response": {"any": ["thing"]}}
    assert http.post(f"/v2/models/{MODEL}/infer", content=document(parameters=parameters)).status_code == 200


def test_a_single_request_is_given_up_when_its_client_leaves(tight_server: str) -> None:
    wide = {"sensor_width": 640, "sensor_height": 480, **WINDOW}
    until = {"name": "until_us", "datatype": "INT64", "shape": [1], "data": [200 * WINDOW_US]}
    body = document(events(data=[0, 1, 1, 1]), until, outputs=[{"name": "window"}], parameters=wide)
    before = count_windows(tight_server)
    address = urlsplit(tight_server)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE_S)
    connection.request("POST", f"/v2/models/{MODEL}/infer", body)
    wait_until(lambda: count_windows(tight_server) > before)
    connection.close()
    wait_until(lambda: is_steady(lambda: count_windows(tight_server)))
    assert count_windows(tight_server) - before < 200


def count_windows(server: str) -> float:
    """Windows that a server has computed."""
    lines = httpx.get(f"{server}/metrics", timeout=PATIENCE_S).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("spikeseg_windows_total{"))


def is_steady(count: Callable[[], float]) -> bool:
    """Whether a number does not change for a while."""
    before = count()
    time.sleep(0.5)
    return count() == before


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once it is so."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_requests_without_events(triton: Triton) -> None:
    silent = triton.infer(EventBatch.empty(), sensor=SENSOR)
    assert silent["mask"].shape == (0, SENSOR.height, SENSOR.width)
    assert silent["window"].shape == (0, 3)
    assert silent["class_share"].shape == (0, 6)
    assert len(triton.infer(until_us=END_US, sensor=SENSOR, binary=False)["window"]) == 0
    event = make_events((5, 1, 1, 1))
    assert triton.infer(event, sensor=SENSOR, until_us=END_US, parameters=WINDOW)["events_in"].tolist() == [1, 0, 0, 0]


def test_windows_of_events_and_windows_that_overlap(server: str, triton: Triton) -> None:
    window = {"count": 900, "stride": 600}
    parameters: dict[str, Any] = {"window_events": 900, "stride_events": 600, "reorder_us": 500}
    with Stream(server, hello(window=window, time={"reorder_us": 500})) as stream:
        expected = as_outputs(stream.events(EVENTS) + stream.flush())
    assert_same(triton.infer(EVENTS, sensor=SENSOR, parameters=parameters), expected)
    with Stream(server, hello(window={"us": WINDOW_US, "stride_us": 5_000}, gaps="leak")) as stream:
        expected = as_outputs(stream.events(EVENTS) + stream.flush())
    parameters = {**WINDOW, "stride_us": 5_000, "gaps": "leak"}
    assert_same(triton.infer(EVENTS, sensor=SENSOR, parameters=parameters), expected)


# Sequences, as NVIDIA's own tests of its sequence batcher go through them.


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("sequence_id", [1, 2**64 - 1, "1", "left camera / \N{SNOWMAN}"])
def test_a_sequence_gives_the_masks_of_the_stream(
    triton: Triton, reference: Outputs, sequence_id: int | str, binary: bool
) -> None:
    assert_same(run_sequence(triton, sequence_id, binary=binary), reference)
    assert triton.response["parameters"]["sequence_id"] == sequence_id


def test_the_number_1_and_the_text_1_and_two_models_are_different_sequences(
    triton: Triton, reference: Outputs, server: str
) -> None:
    streams: list[dict[str, Any]] = [
        {"sequence_id": 4711},
        {"sequence_id": "4711"},
        {"sequence_id": 4711, "model": "edge-s-ann"},
    ]
    found: list[list[Outputs]] = [[], [], []]
    for part, (start, end) in zip(split(EVENTS, [2500]), [(True, False), (False, True)], strict=True):
        for stream, outputs in zip(streams, found, strict=True):
            begin = {"sensor": SENSOR, "parameters": WINDOW} if start else {}
            outputs.append(triton.infer(part, sequence_start=start, sequence_end=end, **begin, **stream))
    assert_same(joined(found[0]), reference)
    assert_same(joined(found[1]), reference)
    assert_same(joined(found[2]), as_outputs(one_connection(server, EVENTS, END_US, model="edge-s-ann")))


def test_no_start(triton: Triton, name: str) -> None:
    status, message = triton.refusal(EVENTS, sequence_id=name, sensor=SENSOR)
    assert status == "400"
    assert NO_START in message
    assert name in message
    status, message = triton.refusal(EVENTS, sequence_id=98_765, sequence_end=True)
    assert status == "400"
    assert "inference request for sequence 98765 to model 'edge-s' " + NO_START in message


def test_an_end_answers_the_open_window_and_frees_the_id(triton: Triton, reference: Outputs, name: str) -> None:
    assert_same(run_sequence(triton, name), reference)
    status, message = triton.refusal(EVENTS, sequence_id=name)
    assert (status, NO_START in message) == ("400", True)
    # At once, and by one request that is start and end.
    assert_same(run_sequence(triton, name, cuts=[]), reference)
    bare = triton.infer(EVENTS, sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)
    rest = triton.infer(sequence_id=name, sequence_end=True)
    assert_same(joined([bare, rest]), reference)
    assert len(rest["window"]) == 1


def test_no_end_and_a_new_start(triton: Triton, reference: Outputs, name: str) -> None:
    """The sequence that did not end is cut off; its events and membranes are in nothing that follows."""
    triton.infer(random_events(5), sequence_id=name, sequence_start=True, sensor=SENSOR)
    triton.infer(random_events(5, start_us=END_US), sequence_id=name)
    assert_same(run_sequence(triton, name), reference)
    wider = SensorSize(80, 60)
    triton.infer(EVENTS, sequence_id=name, sequence_start=True, sensor=wider)
    found = triton.infer(until_us=END_US, sequence_id=name, sequence_end=True, names=["mask"])
    assert found["mask"].shape[1:] == (60, 80)


def test_a_start_that_cannot_be_read_leaves_the_sequence_that_runs(
    triton: Triton, reference: Outputs, name: str
) -> None:
    first, second = split(EVENTS, [2500])
    outside = make_events((0, 64, 0, 0))
    found = [triton.infer(first, sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)]
    start: dict[str, Any] = {"sequence_id": name, "sequence_start": True}
    assert "sensor" in triton.refusal(EVENTS, **start)[1]
    assert "x[0] = 64" in triton.refusal(outside, sensor=SENSOR, **start)[1]
    assert "too large" in triton.refusal(EVENTS, sensor=SensorSize(5000, 5), **start)[1]
    assert "5 µs" in triton.refusal(EVENTS, sensor=SENSOR, parameters={"window_us": 5}, **start)[1]
    found.append(triton.infer(second, sequence_id=name, sequence_end=True))
    assert_same(joined(found), reference)


def test_a_start_that_cannot_be_applied_leaves_no_sequence(triton: Triton, name: str) -> None:
    triton.infer(EVENTS, sequence_id=name, sequence_start=True, sensor=SENSOR)
    start: dict[str, Any] = {"sequence_id": name, "sequence_start": True, "sensor": SENSOR}
    assert "windows" in triton.refusal(EVENTS, until_us=10**12, **start)[1]
    assert NO_START in triton.refusal(EVENTS, sequence_id=name)[1]


def test_what_comes_later_agrees_with_the_start(triton: Triton, reference: Outputs, name: str) -> None:
    first, second = split(EVENTS, [2500])
    same: dict[str, Any] = {"sensor": SENSOR, "parameters": {**WINDOW, "gaps": "step"}}
    found = [triton.infer(first, sequence_id=name, sequence_start=True, **same)]
    status, message = triton.refusal(second, sequence_id=name, sensor=SensorSize(64, 49))
    assert (status, "64x49" in message) == ("422", True)
    other: dict[str, Any]
    for other in ({"window_us": 5_000}, {"window_events": 5}, {"gaps": "leak"}, {"reorder_us": 7}, {"wrap_bits": 30}):
        status, message = triton.refusal(second, sequence_id=name, parameters=other)
        assert (status, next(iter(other)) in message) == ("422", True)
    found.append(triton.infer(second, sequence_id=name, sequence_end=True, **same))
    assert_same(joined(found), reference)


def test_a_request_that_is_refused_changes_nothing(triton: Triton, reference: Outputs, name: str) -> None:
    first, second = split(EVENTS, [2500])
    found = [triton.infer(first, sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)]
    assert "earlier" in triton.refusal(first, sequence_id=name)[1]
    assert "windows" in triton.refusal(second, until_us=10**12, sequence_id=name, sequence_end=True)[1]
    found.append(triton.infer(second, sequence_id=name, sequence_end=True))
    assert_same(joined(found), reference)


def test_a_numbered_request_is_applied_once(triton: Triton, reference: Outputs, name: str) -> None:
    parts = split(EVENTS, [2000, 4000])
    found = []
    for number, part in enumerate(parts, 1):
        begin = {"sensor": SENSOR, "sequence_start": True} if number == 1 else {}
        options = {**begin, "sequence_id": name, "sequence_end": number == 3}
        parameters = {**(WINDOW if number == 1 else {}), "sequence_number": number}
        answers = [triton.infer(part, parameters=parameters, **options) for _ in range(3)]
        for answer in answers:
            assert_same(answer, answers[0])
        found.append(answers[0])
        if number < 3:
            assert triton.response["parameters"]["next_sequence"] == number + 1
    assert_same(joined(found), reference)
    # Beyond its end there is nothing to repeat.
    assert NO_START in triton.refusal(EVENTS, sequence_id=name, parameters={"sequence_number": 9})[1]


def test_a_number_that_skips(triton: Triton, name: str) -> None:
    triton.infer(EVENTS, sequence_id=name, sequence_start=True, sensor=SENSOR)
    status, message = triton.refusal(until_us=END_US, sequence_id=name, parameters={"sequence_number": 3})
    assert (status, "skips" in message) == ("422", True)


def test_an_idle_sequence_is_freed_and_must_start_again(tight_server: str, name: str) -> None:
    few = EVENTS[:100]
    with triton_client(tight_server) as triton:
        config = triton.client.get_model_config(MODEL)
        assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 1_500_000
        triton.infer(few, sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)
        # Not idle, as long as something comes.
        for step in range(3):
            time.sleep(0.6)
            triton.infer(until_us=(step + 1) * WINDOW_US, sequence_id=name)
        time.sleep(2.2)
        status, message = triton.refusal(until_us=END_US, sequence_id=name)
        assert (status, NO_START in message) == ("400", True)
        triton.infer(few, sequence_id=name, sequence_start=True, sensor=SENSOR)
        triton.infer(sequence_id=name, sequence_end=True)


def test_all_sequences_are_in_use(tight_server: str, name: str) -> None:
    few = EVENTS[:100]
    start: dict[str, Any] = {"sequence_start": True, "sensor": SENSOR}
    with triton_client(tight_server) as triton:
        for number in range(3):
            triton.infer(few, sequence_id=f"{name} {number}", **start)
        status, message = triton.refusal(few, sequence_id=f"{name} more", **start)
        assert (status, "all 3 sessions" in message) == ("429", True)
        # One of those that run may begin anew, and single requests need no room.
        triton.infer(few, sequence_id=f"{name} 0", **start)
        triton.infer(few, sensor=SENSOR)
        body, length = request_body(few, {"sequence_id": "another", "sequence_start": True})
        response = httpx.post(f"{tight_server}/v2/models/{MODEL}/infer", content=body, headers=length)
        assert int(problem_of(response, 429) and response.headers["retry-after"]) >= 1
        triton.infer(sequence_id=f"{name} 1", sequence_end=True)
        triton.infer(few, sequence_id=f"{name} more", **start)
        for number in (0, 2, "more"):
            triton.infer(sequence_id=f"{name} {number}", sequence_end=True)


def request_body(
    events: EventBatch, parameters: dict[str, Any], *, sensor: SensorSize = SENSOR, binary: bool = True
) -> tuple[bytes, dict[str, str]]:
    """A request's body, and the headers that it needs."""
    size = np.array([sensor.width, sensor.height], np.int32)
    tensors = [Tensor("events", rows(events), binary), Tensor("sensor", size, binary)]
    body, length = encode_body({"parameters": parameters}, "inputs", tensors)
    return body, {} if length is None else {HEADER_LENGTH: str(length)}


def test_too_many_requests_of_one_sequence_wait(tight_server: str, name: str) -> None:
    """Of ten at once one is worked on, two wait, and the others are refused and change nothing."""
    wide = SensorSize(640, 480)
    windows = 60
    begin: dict[str, Any] = {"sequence_start": True, "sensor": wide, "parameters": WINDOW}
    with triton_client(tight_server) as triton:
        triton.infer(make_events((0, 1, 1, 1)), sequence_id=name, **begin)
    until = {"name": "until_us", "datatype": "INT64", "shape": [1]}
    bodies = [
        document(
            {**until, "data": [(number + 1) * windows * WINDOW_US]},
            outputs=[{"name": "window"}],
            parameters={"sequence_id": name},
        )
        for number in range(10)
    ]
    answers = send_together(tight_server, [(body, {}) for body in bodies], pause_s=0.01)
    taken = [json.loads(answer.content) for answer in answers if answer.status == 200]
    assert 3 <= len(taken) < 10
    for answer in answers:
        if answer.status != 200:
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert "2 requests of this sequence wait already" in json.loads(answer.content)["error"]
    assert [answer["parameters"]["next_sequence"] for answer in taken] == list(range(3, 3 + len(taken)))
    found = [row for answer in taken for row in answer["outputs"][0]["data"][::3]]
    assert found == list(range(len(found)))
    with triton_client(tight_server) as triton:
        triton.infer(sequence_id=name, sequence_end=True)


def test_requests_are_taken_in_the_order_in_which_they_arrive(
    server: str, triton: Triton, reference: Outputs, name: str
) -> None:
    """None waits for the answer to the one before it; the ones in front take the longest to read and to compute."""
    parts = split(EVENTS, [3000, 3001, 3002, 3003, 3004, 5000])
    triton.infer(EventBatch.empty(), sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)
    bodies = []
    for index, part in enumerate(parts):
        parameters = {"sequence_id": name, "binary_data_output": True, "sequence_end": index == len(parts) - 1}
        bodies.append(request_body(part, parameters, binary=index > 0))
    assert_same(joined([outputs_in(answer) for answer in send_together(server, bodies)]), reference)


def send_together(
    server: str, bodies: Sequence[tuple[bytes, dict[str, str]]], *, pause_s: float = 0.05
) -> list[Answer]:
    """Send each over a connection of its own, one after the other, and only then read the answers.

    Of those that come in the same moment, no server can tell which was first: hence the pause.
    """
    address = urlsplit(server)
    with ExitStack() as stack:
        connections = []
        for _ in bodies:
            connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE_S)
            stack.callback(connection.close)
            connection.connect()
            connections.append(connection)
        for connection, (body, headers) in zip(connections, bodies, strict=True):
            connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
            time.sleep(pause_s)
        return [read_answer(connection) for connection in connections]


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    """The answer to what was sent over a connection."""
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read())


def outputs_in(answer: Answer) -> Outputs:
    """The outputs of an answer with binary data."""
    from tritonclient.http import InferenceServerClient

    assert answer.status == 200, answer.content
    length = answer.headers[HEADER_LENGTH.lower()]
    result = InferenceServerClient.parse_response_body(answer.content, header_length=length)
    return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}


def test_many_sequences_at_once(server: str, reference: Outputs, name: str) -> None:
    """Each from a thread of its own, cut otherwise, between single requests of others."""

    def run(number: int) -> Outputs:
        cuts = sorted(np.random.default_rng(number).integers(0, len(EVENTS), 5).tolist())
        with triton_client(server) as triton:
            if number % 4 == 3:
                return triton.infer(EVENTS, sensor=SENSOR, parameters=WINDOW)
            return run_sequence(triton, f"{name} {number}", cuts, binary=number % 2 == 0)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(run, range(12)):
            assert_same(found, reference)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[str]]:
    """Two servers that share a store."""
    with running_redis(tmp_path) as redis:
        servers = [Replica(name, tmp_path, {"store_url": redis.url}) for name in ("one", "other")]
        for replica in servers:
            replica.start()
        try:
            for replica in servers:
                replica.wait_until_ready()
            yield [replica.url for replica in servers]
        finally:
            for replica in servers:
                replica.terminate()
        assert not any("Traceback" in replica.log() for replica in servers)


def test_sequences_go_on_at_another_server(replicas: list[str], reference: Outputs, name: str) -> None:
    """Each request may come to another server; what is answered is in the store."""
    parts = split(EVENTS, CUTS)
    begin: dict[str, Any] = {"sensor": SENSOR, "sequence_start": True, "parameters": WINDOW}
    with triton_client(replicas[0]) as left, triton_client(replicas[1]) as right:
        found = [left.infer(parts[0], sequence_id=name, **begin)]
        for number, part in enumerate(parts[1:], 2):
            last: dict[str, Any] = {"sequence_end": number == len(parts), "parameters": {"sequence_number": number}}
            found.append((left, right)[number % 2].infer(part, sequence_id=name, **last))
        assert_same(joined(found), reference)
        # The last answer was lost, and its server cannot be reached.
        assert_same((right, left)[number % 2].infer(parts[-1], sequence_id=name, **last), found[-1])
        # A start ends what runs elsewhere.
        left.infer(random_events(5), sequence_id=name, **begin)
        assert_same(run_sequence(right, name), reference)
        assert NO_START in left.refusal(EVENTS, sequence_id=name)[1]
        left.infer(random_events(5), sequence_id=name, **begin)
        first = right.infer(parts[0], sequence_id=name, **begin)
        rest = left.infer(EVENTS[CUTS[0] :], sequence_id=name, sequence_end=True)
        assert_same(joined([first, rest]), reference)
        assert NO_START in right.refusal(EVENTS, sequence_id=name)[1]


def test_a_request_that_takes_long_to_read_is_not_overtaken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process: from outside nobody can tell when a body has arrived."""
    from service.api import sequences
    from service.api.services import Services
    from service.settings import Settings

    plain = sequences.read_request
    parts = split(EVENTS, [3000, 3001])
    seconds = {len(part): delay for part, delay in zip(parts, (0.1, 0.05, 0.0), strict=True)}

    def slow(body: bytes, *args: Any) -> Any:
        request = plain(body, *args)
        time.sleep(seconds[len(request.events)])
        return request

    async def still_there() -> bool:
        return False

    async def run() -> list[int]:
        services = Services.start(Settings())
        try:
            model = await services.library.get(MODEL)
            taken = sequences.Sequences(services)
            calls = []
            for index, part in enumerate(parts):
                parameters = {"sequence_id": 1, "sequence_start": index == 0, "sequence_end": index == 2}
                body, headers = request_body(part, parameters)
                calls.append(taken.infer(model, body, headers[HEADER_LENGTH], time.perf_counter(), still_there))
            return [inference.next_sequence or 0 for inference in await asyncio.gather(*calls)]
        finally:
            await services.close()

    monkeypatch.setattr(sequences, "read_request", slow)
    assert asyncio.run(run()) == [2, 3, 5]


def test_a_line_lets_through_in_the_order_of_coming() -> None:
    """Whoever waits may leave before the turn; nobody behind is let through by that."""

    async def run() -> list[str]:
        line, order = Line(), list[str]()

        async def go(name: str, seconds: float) -> None:
            with line.join() as place:
                await asyncio.sleep(seconds)
                await place.reached()
                order.append(name)
                await asyncio.sleep(0.01)
                order.append(name)

        tasks = [asyncio.create_task(go(name, seconds)) for name, seconds in [("a", 0.05), ("b", 0), ("c", 0.02)]]
        impatient = asyncio.create_task(go("impatient", 0))
        tasks.append(asyncio.create_task(go("d", 0)))
        await asyncio.sleep(0.01)
        impatient.cancel()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not line
        return order

    assert asyncio.run(run()) == ["a", "a", "c", "c", "d", "d"]


def test_lines_are_short_and_leave_nothing_behind() -> None:
    async def run() -> None:
        lines = Lines(2)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(lines.join("one"))
            with pytest.raises(BacklogError), lines.join("one"):
                pass
            stack.enter_context(lines.join("other"))
        assert not lines

    asyncio.run(run())


# What cannot be used.

T0 = int(EVENTS.t[2499])
GOOD_EVENTS = {"name": "events", "datatype": "INT64", "shape": [1, 4], "data": [END_US - 1, 1, 2, 1]}
GOOD_SENSOR = {"name": "sensor", "datatype": "INT32", "shape": [2], "data": [64, 48]}


def document(*inputs: Any, outputs: Any = None, parameters: Any = None, **changes: Any) -> bytes:
    """A request as JSON."""
    fields = {"inputs": list(inputs) or [GOOD_EVENTS], "outputs": outputs, "parameters": parameters, **changes}
    return json.dumps(fields).encode()


def events(**changes: Any) -> dict[str, Any]:
    """A valid input, changed."""
    return {**GOOD_EVENTS, **changes}


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    """An input whose data stand behind the JSON."""
    fields = {"name": "events", "datatype": "INT64", "shape": [1, 4], "parameters": {"binary_data_size": size}}
    return {**fields, **changes}


BYTES = np.array([END_US - 1, 1, 2, 1], np.int64).tobytes()
BAD: dict[str, tuple[bytes, str]] = {
    "an empty body": (b"", "JSON"),
    "no JSON": (b"{", "JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "JSON"),
    "half a surrogate pair": (b'{"id": "\\ud800", "inputs": []}', "JSON"),
    "deep nesting": (b"[" * 200_000, "JSON"),
    "deep nesting in the data": (b'{"inputs": [{"data": ' + b"[" * 200_000, "JSON"),
    "a list": (b"[]", ""),
    "null": (b"null", ""),
    "no inputs": (b"{}", "inputs"),
    "inputs that are an object": (b'{"inputs": {}}', "inputs"),
    "no events": (document(GOOD_SENSOR), "events is missing"),
    "too many inputs": (document(*[GOOD_EVENTS] * 17), "inputs"),
    "an input twice": (document(GOOD_EVENTS, GOOD_EVENTS), "twice"),
    "an unknown input": (document(GOOD_EVENTS, events(name="frames")), "no input 'frames'; there are: events, sensor"),
    "an input without a name": (document({"datatype": "INT64", "shape": [0, 4], "data": []}), "inputs.0.name"),
    "a name that is a number": (document(events(name=5)), "inputs.0.name"),
    "a long name": (document(events(name="e" * 129)), "inputs.0.name"),
    "another type": (document(events(datatype="INT32")), "of INT64, not of 'INT32'"),
    "no type": (document(events(datatype=None)), "inputs.0.datatype"),
    "text": (document(events(datatype="BYTES")), "'BYTES'"),
    "three columns": (document(events(shape=[1, 3], data=[1, 2, 3])), "[-1, 4]"),
    "one dimension": (document(events(shape=[4])), "[-1, 4]"),
    "no shape": (document(events(shape=None)), "shape"),
    "a negative size": (document(events(shape=[-1, 4])), "inputs.0.shape.0"),
    "a size with a fraction": (document(events(shape=[1.0, 4])), "inputs.0.shape.0"),
    "a size that is true": (document(events(shape=[True, 4])), "inputs.0.shape.0"),
    "a huge size": (document(events(shape=[2**62, 4])), "too large"),
    "a size that is larger still": (document(events(shape=[2**70, 4])), "inputs.0.shape.0"),
    "many dimensions": (document(events(shape=[1] * 9)), "inputs.0.shape"),
    "too few values": (document(events(data=[1, 2, 3])), "has 4 values, not 3"),
    "too many values": (document(events(data=[1, 2, 3, 4, 5])), "has 4 values, not 5"),
    "values nested otherwise": (document(events(shape=[2, 4], data=[[1] * 3, [1] * 5])), "nested"),
    "no data": (document(events(data=None)), "data"),
    "data that is a number": (document(events(data=5)), "inputs.0.data"),
    "true": (document(events(data=[True, 1, 1, 1])), "not an integer"),
    "a fraction": (document(events(data=[1.5, 1, 1, 1])), "not an integer"),
    "NaN": (b'{"inputs": [{"name": "events", "datatype": "INT64", "shape": [1, 4], "data": [NaN, 1, 1, 1]}]}', ""),
    "infinity": (document(events(data=[float("inf"), 1, 1, 1])), "not an integer"),
    "text for a number": (document(events(data=["1", 1, 1, 1])), "not an integer"),
    "a huge integer": (document(events(data=[10**30, 1, 1, 1])), "does not fit INT64"),
    "an integer too long to read": (b'{"inputs": [' + b"9" * 10_000 + b"]}", ""),
    "a negative time": (document(events(data=[-1, 1, 1, 1])), "t[0] = -1"),
    "a time out of range": (document(events(data=[2**53, 1, 1, 1])), "t[0]"),
    "time going back": (document(events(data=[0, 1, 1, 1])), "earlier"),
    "time going back within": (document(events(shape=[2, 4], data=[T0 + 9, 1, 1, 1, T0 + 8, 1, 1, 1])), "t[1]"),
    "a negative x": (document(events(data=[T0, -1, 1, 1])), "x[0] = -1"),
    "x outside": (document(events(data=[T0, 64, 1, 1])), "x[0] = 64"),
    "y far outside": (document(events(data=[T0, 0, 65536 * 48, 1])), "y[0] = 3145728"),
    "a polarity of 2": (document(events(data=[T0, 0, 0, 2])), "p[0] = 2"),
    "a polarity of 256": (document(events(data=[T0, 0, 0, 256])), "p[0] = 256"),
    "a sensor of nothing": (document(GOOD_EVENTS, {**GOOD_SENSOR, "data": [0, 48]}), "0x48"),
    "a negative sensor": (document(GOOD_EVENTS, {**GOOD_SENSOR, "data": [64, -48]}), "64x-48"),
    "another sensor": (document(GOOD_EVENTS, {**GOOD_SENSOR, "data": [48, 64]}), "48x64"),
    "two sensors": (
        document(GOOD_EVENTS, GOOD_SENSOR, parameters={"sensor_width": 64, "sensor_height": 47}),
        "64x47",
    ),
    "half a sensor": (document(parameters={"sensor_width": 64}), "parameters.sensor_height"),
    "a huge sensor": (document(parameters={"sensor_width": 10**9, "sensor_height": 1}), "parameters.sensor_width"),
    "a negative until_us": (document({**GOOD_EVENTS, "name": "until_us", "shape": [1], "data": [-1]}), "-1"),
    "a distant until_us": (document({**GOOD_EVENTS, "name": "until_us", "shape": [1], "data": [10**12]}), "windows"),
    "two times until": (document({**GOOD_EVENTS, "name": "until_us", "shape": [2], "data": [1, 2]}), "[1]"),
    "parameters that are a list": (document(parameters=[1]), "parameters"),
    "an unknown parameter": (document(parameters={"windowus": 5}), "parameters.windowus"),
    "an unknown parameter that is an object": (document(parameters={"a": {"b": 1}}), "parameters.a"),
    "a flag that is text": (document(parameters={"sequence_end": "true"}), "parameters.sequence_end"),
    "a window that is text": (document(parameters={"window_us": "5"}), "parameters.window_us"),
    "a window that is true": (document(parameters={"window_us": True}), "parameters.window_us"),
    "gaps of another kind": (document(parameters={"gaps": "fill"}), "parameters.gaps"),
    "a number of 0": (document(parameters={"sequence_number": 0}), "parameters.sequence_number"),
    "a huge number": (document(parameters={"sequence_number": 2**63}), "parameters.sequence_number"),
    "a priority that is text": (document(parameters={"priority": "high"}), "parameters.priority"),
    "an id that is a number": (document(id=5), "id"),
    "an unknown output": (document(outputs=[{"name": "depth"}]), "no output 'depth'; there are: mask, window"),
    "an output twice": (document(outputs=[{"name": "mask"}, {"name": "mask"}]), "twice"),
    "too many outputs": (document(outputs=[{"name": "mask"}] * 17), "outputs"),
    "outputs that are names": (document(outputs=["mask"]), "outputs.0"),
    "an output that is text": (document(outputs=[{"name": "mask", "parameters": {"binary_data": "yes"}}]), "outputs.0"),
    "a classification": (document(outputs=[{"name": "mask", "parameters": {"classification": 3}}]), "classification"),
    "shared memory": (
        document({**GOOD_EVENTS, "data": None, "parameters": {"shared_memory_region": "r"}}),
        "no shared memory",
    ),
    "shared memory for an output": (
        document(outputs=[{"name": "mask", "parameters": {"shared_memory_region": "r"}}]),
        "no shared memory",
    ),
    "bytes that are not there": (document(binary(32)), "0 bytes are there"),
    "a negative number of bytes": (document(binary(-1)), "binary_data_size"),
    "bytes that are text": (document(binary("32")), "binary_data_size"),
    "a huge number of bytes": (document(binary(2**62)), "0 bytes are there"),
}
# What stands behind the JSON, and how long the JSON is said to be, if that is not how long it is.
BAD_BINARY: dict[str, tuple[bytes, bytes, str | None, str]] = {
    "too few bytes": (document(binary(32)), BYTES[:-1], None, "31 bytes are there"),
    "too many bytes": (document(binary(32)), BYTES + b"\0", None, "belong to no tensor"),
    "bytes of nobody": (document(), BYTES, None, "belong to no tensor"),
    "a size that is not the shape's": (document(binary(24)), BYTES[:24], None, "takes 32 bytes, 24 are there"),
    "a shape that is not the size's": (document(binary(32, shape=[2, 4])), BYTES, None, "takes 64 bytes"),
    "a huge shape": (document(binary(32, shape=[2**40, 4])), BYTES, None, "takes 35184372088832 bytes"),
    "bytes and data": (document(binary(32, data=[1, 2, 3, 4])), BYTES, None, "either data or"),
    "sizes of two tensors that do not add up": (
        document(
            binary(32), {"name": "sensor", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}}
        ),
        BYTES,
        None,
        "0 bytes are there",
    ),
    "a length beyond the body": (document(binary(32)), BYTES, "100000", "Inference-Header-Content-Length"),
    "a length that is negative": (document(binary(32)), BYTES, "-1", "Inference-Header-Content-Length"),
    "a length that is text": (document(binary(32)), BYTES, "long", "Inference-Header-Content-Length"),
    "a length of nothing": (document(binary(32)), BYTES, "", "Inference-Header-Content-Length"),
    "a length of 0": (document(binary(32)), BYTES, "0", "JSON"),
    "a length within the JSON": (document(binary(32)), BYTES, "20", "JSON"),
    "a length behind the JSON": (document(binary(32)), BYTES, str(len(document(binary(32))) + 5), "JSON"),
}


@pytest.fixture(scope="module")
def running(server: str) -> Iterator[tuple[httpx.Client, str]]:
    """A sequence that has taken its first half, which every bad request is meant for."""
    name = "bad requests"
    with triton_client(server) as triton, httpx.Client(base_url=server, timeout=PATIENCE_S) as http:
        triton.infer(EVENTS[:2500], sequence_id=name, sequence_start=True, sensor=SENSOR, parameters=WINDOW)
        yield http, name
        # None of them has left a trace.
        rest = triton.infer(EVENTS[2500:], sequence_id=name, sequence_end=True, parameters={"sequence_number": 2})
        expected = as_outputs(one_connection(server, EVENTS, END_US))
        assert_same(rest, {key: value[-len(rest["window"]) :] for key, value in expected.items()})


def aimed(text: bytes, name: str) -> bytes:
    """The same request, meant for a sequence, if it is whole enough to say so."""
    try:
        fields = json.loads(text)
        fields["parameters"] = {"sequence_id": name, **(fields["parameters"] or {})}
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
    return json.dumps(fields).encode()


def refuse(response: httpx.Response, says: str) -> None:
    """Check what every refusal must have; ``error`` is what Triton's clients read."""
    problem = problem_of(response, 422)
    assert problem["error"] == problem["detail"]
    assert says in json.dumps(problem, ensure_ascii=False)


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_and_changes_nothing(running: tuple[httpx.Client, str], what: str) -> None:
    http, name = running
    text, says = BAD[what]
    refuse(http.post(f"/v2/models/{MODEL}/infer", content=aimed(text, name)), says)


@pytest.mark.parametrize("what", BAD_BINARY)
def test_bad_binary_data_is_refused_and_changes_nothing(running: tuple[httpx.Client, str], what: str) -> None:
    http, name = running
    text, behind, length, says = BAD_BINARY[what]
    if length is None:
        text = aimed(text, name)
        length = str(len(text))
    refuse(http.post(f"/v2/models/{MODEL}/infer", content=text + behind, headers={HEADER_LENGTH: length}), says)


BAD_SEQUENCES: dict[str, tuple[dict[str, Any], str]] = {
    "a start without an id": ({"sequence_start": True}, "sequence_id"),
    "an end of 0": ({"sequence_end": True, "sequence_id": 0}, "sequence_id"),
    "a number without an id": ({"sequence_number": 1, "sequence_id": ""}, "sequence_id"),
    "a negative id": ({"sequence_id": -1}, "sequence_id"),
    "an id of 65 bits": ({"sequence_id": 2**64}, "sequence_id"),
    "an id that is true": ({"sequence_id": True}, "sequence_id"),
    "an id that is a list": ({"sequence_id": [1]}, "sequence_id"),
    "a long id": ({"sequence_id": "a" * 1025}, "sequence_id"),
    "a start at 2": ({"sequence_id": 77, "sequence_start": True, "sequence_number": 2}, "sequence_number 1"),
    "too short a window": ({"window_us": 5}, "parameters.window_us"),
    "windows of both kinds": ({"window_us": 5000, "window_events": 5}, "parameters.window_us"),
    "too long a stride": ({"window_us": 5000, "stride_us": 5001}, "parameters.window_us"),
    "too many bits": ({"wrap_bits": 60}, "parameters.wrap_bits"),
    "too much disorder": ({"reorder_us": 10**9}, "parameters.reorder_us"),
    "too much disorder for the clock": ({"reorder_us": 100_000, "wrap_bits": 16}, "parameters.reorder_us"),
    "too large a sensor": ({"sensor_width": 60_000, "sensor_height": 60_000}, "too large"),
}


@pytest.mark.parametrize("what", BAD_SEQUENCES)
def test_settings_that_no_stream_can_have(http: httpx.Client, what: str) -> None:
    parameters, says = BAD_SEQUENCES[what]
    body = document(parameters={"sensor_width": 64, "sensor_height": 48, **parameters})
    refuse(http.post(f"/v2/models/{MODEL}/infer", content=body), says)


def test_other_refusals_are_readable_too(http: httpx.Client) -> None:
    path = f"/v2/models/{MODEL}/infer"
    for response, status in (
        (http.post("/v2/models/nope/infer", content=document()), 404),
        (http.post(f"/v2/models/{MODEL}/versions/2/infer", content=document()), 404),
        (http.post(path, content=document(), headers={"Content-Encoding": "gzip"}), 415),
        (http.post(path, content=bytes(5 * 2**20)), 413),
        (http.post(path, content=document(parameters={"sequence_id": 1234567})), 400),
        (http.post(path, content=document(), headers=[(HEADER_LENGTH, "1"), (HEADER_LENGTH, "2")]), 422),
    ):
        problem = problem_of(response, status)
        assert problem["error"] == problem["detail"]


def test_a_sequence_is_not_another_clients_session(http: httpx.Client, name: str, triton: Triton) -> None:
    # Servers of different versions must find each other's sequences, so this does not change.
    id = "sequence-" + blake2b(f"{MODEL}\0str\0{name}".encode(), digest_size=24).hexdigest()
    body = {"sensor": {"width": 64, "height": 48}, "metrics": False}
    assert http.post("/v1/sessions", params={"session": id}, json=body).status_code == 201
    assert triton.refusal(EVENTS, sequence_id=name)[0] == "409"
    triton.infer(EVENTS, sequence_id=name, sequence_start=True, sensor=SENSOR)
    triton.infer(sequence_id=name, sequence_end=True)


def test_the_latest_answers_are_not_computed_for_nothing_that_fits(tight_server: str, name: str) -> None:
    """An answer that is too large is refused, and the sequence goes on as if it had not been asked for."""
    few = EVENTS[:100]
    with triton_client(tight_server) as triton:
        start: dict[str, Any] = {"sequence_start": True, "sensor": SENSOR, "parameters": WINDOW}
        triton.infer(few, sequence_id=name, **start)
        status, message = triton.refusal(until_us=10 * WINDOW_US, sequence_id=name)
        assert (status, "more than 6 windows" in message) == ("413", True)
        status, message = triton.refusal(until_us=10 * WINDOW_US, sequence_id=name, binary=False)
        assert (status, "more than 2 windows" in message) == ("413", True)
        found = triton.infer(until_us=10 * WINDOW_US, sequence_id=name, sequence_end=True, names=["window"])
        assert len(found["window"]) == 10


def test_bodies_have_limits(tight_server: str) -> None:
    path = f"{tight_server}/v2/models/{MODEL}/infer"
    good = request_body(EVENTS[:100], {}, binary=False)[0]
    assert httpx.post(path, content=good.ljust(15_000), timeout=PATIENCE_S).status_code == 200
    problem_of(httpx.post(path, content=good.ljust(15_001)), 413)
    problem_of(httpx.post(path, content=bytes(16_000), headers={HEADER_LENGTH: "15001"}), 413)
    problem_of(httpx.post(path, content=bytes(20_001), headers={HEADER_LENGTH: "10"}), 413)


def test_the_same_server_serves_both_protocols(http: httpx.Client, triton: Triton, reference: Outputs) -> None:
    session = HttpSession(http)
    results = session.events(EVENTS, until_us=END_US)
    assert_same(triton.infer(EVENTS, sensor=SENSOR, parameters=WINDOW), as_outputs(results))
    assert_same(as_outputs(results), reference)
