"""Metrics by Prometheus' conventions, and the table that describes them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics_table import DOCUMENT, metrics_table, table_in
from tests.monitoring.stack import promtool
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, HttpSession, Stream, hello, problem_of, random_events
from tests.service.real_servers import MissingProgramError

EVENTS = random_events(7, windows=3)
MODEL = {"model": "edge-s"}


@pytest.fixture
def http(server: str) -> httpx.Client:
    """A client of a server."""
    return httpx.Client(base_url=server, timeout=PATIENCE_S)


def value(http: httpx.Client, sample: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return sum(
        found.value
        for family in families
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )


def families_of(http: httpx.Client) -> Mapping[str, Metric]:
    """All metrics by name."""
    return {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}


def test_promtool_finds_no_fault_with_the_metrics_of_a_server_that_has_worked(http: httpx.Client) -> None:
    try:
        program = promtool()
    except MissingProgramError as error:
        pytest.skip(str(error))
    HttpSession(http).events(EVENTS, until_us=3 * WINDOW_US)
    text = http.get("/metrics").content
    checked = subprocess.run([program, "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_energy_and_operations_are_those_that_the_answers_name(http: httpx.Client) -> None:
    counters = (
        "spikeseg_energy_estimate_joules_total",
        "spikeseg_ann_energy_estimate_joules_total",
        "spikeseg_ann_multiply_accumulates_total",
        "spikeseg_synaptic_operations_total",
        "spikeseg_spikes_total",
    )
    before = [value(http, counter, **MODEL) for counter in counters]
    results = HttpSession(http).events(EVENTS, until_us=3 * WINDOW_US)
    activities = [result.activity for result in results]
    grown = [value(http, counter, **MODEL) - was for counter, was in zip(counters, before, strict=True)]
    assert grown == pytest.approx(
        [
            sum(a["energy_estimate_j"]["snn"] for a in activities if a),
            sum(a["energy_estimate_j"]["ann"] for a in activities if a),
            sum(a["macs_ann"] for a in activities if a),
            sum(a["sops"] for a in activities if a),
            sum(layer["spikes"] for a in activities if a for layer in a["layers"]),
        ],
        # What has been counted before takes part of the digits.
        rel=1e-6,
    )


def test_each_pixel_of_a_mask_counts_for_its_class(http: httpx.Client) -> None:
    names = [c["name"] for c in next(m for m in http.get("/v1/models").json()["models"] if m["default"])["classes"]]
    before = [value(http, "spikeseg_class_pixels_total", **{**MODEL, "class": name}) for name in names]
    (result,) = HttpSession(http).events(EVENTS[:1500], until_us=WINDOW_US)
    after = [value(http, "spikeseg_class_pixels_total", **{**MODEL, "class": name}) for name in names]
    grown = [now - was for now, was in zip(after, before, strict=True)]
    assert grown == [int((result.mask == index).sum()) for index in range(len(names))]
    assert sum(grown) == SENSOR.width * SENSOR.height


def test_each_window_of_a_session_has_one_latency(http: httpx.Client, server: str) -> None:
    before = value(http, "spikeseg_window_latency_seconds_count", **MODEL)
    HttpSession(http).events(EVENTS, until_us=3 * WINDOW_US)
    with Stream(server) as stream:
        stream.events(EVENTS)
        stream.end()
    assert value(http, "spikeseg_window_latency_seconds_count", **MODEL) - before == 6


def test_windows_of_one_message_are_not_late_because_of_each_other(http: httpx.Client) -> None:
    """From the arrival of their message to their answers, 20 windows would add up to ten times what they took."""
    before = value(http, "spikeseg_window_latency_seconds_sum", **MODEL)
    results = HttpSession(http).events(random_events(8, windows=20), until_us=20 * WINDOW_US)
    since_arrival_s = sum(result.metadata["latency_ms"]["total"] for result in results) / 1e3
    assert len(results) == 20
    assert 0 < value(http, "spikeseg_window_latency_seconds_sum", **MODEL) - before < since_arrival_s / 2


def test_dropped_windows_are_counted_by_reason_from_nought_on(http: httpx.Client) -> None:
    HttpSession(http).events(EVENTS[:10], until_us=WINDOW_US)
    samples = families_of(http)["spikeseg_windows_skipped"].samples
    reasons = {sample.labels["reason"] for sample in samples if sample.labels["model"] == "edge-s"}
    assert reasons == {"gap", "dropped", "merged"}


def test_a_refusal_of_a_kind_that_has_not_happened_is_there_as_nought(http: httpx.Client) -> None:
    codes = {sample.labels["code"] for sample in families_of(http)["spikeseg_errors"].samples}
    assert {"internal", "capacity", "state-memory", "backlog", "draining", "store-away"} <= codes


def test_sessions_are_counted_when_they_begin_and_when_their_client_comes_back(http: httpx.Client, server: str) -> None:
    counters = ("spikeseg_sessions_opened_total", "spikeseg_sessions_resumed_total")
    before = [value(http, counter) for counter in counters]
    with Stream(server) as stream:
        stream.advance(5)
        stream.drop()
    with Stream.resume(server, stream.token) as again:
        again.end()
    assert [value(http, counter) for counter in counters] == [was + 1 for was in before]


def test_readiness_and_limits_are_told(http: httpx.Client) -> None:
    assert value(http, "spikeseg_ready") == 1
    assert value(http, "spikeseg_sessions_limit") == 5000
    assert value(http, "spikeseg_state_limit_bytes") == 4 * 2**30
    assert value(http, "spikeseg_compute_threads") >= 1


def test_it_is_told_how_a_model_is_computed(http: httpx.Client) -> None:
    HttpSession(http).events(EVENTS[:10], until_us=WINDOW_US)
    samples = families_of(http)["spikeseg_model_info"].samples
    (labels,) = (sample.labels for sample in samples if sample.labels["model"] == "edge-s")
    assert labels["mode"] == "streaming"
    assert labels["backend"]
    assert labels["weights"] == "float32"


def test_no_label_names_a_session(http: httpx.Client, server: str) -> None:
    session = HttpSession(http)
    session.events(EVENTS[:10])
    with Stream(server, hello()) as stream:
        stream.advance(5)
        text = http.get("/metrics").text
        assert session.fields["session"] not in text
        assert stream.welcome["session"] not in text
    allowed = {"model", "layer", "class", "code", "stage", "reason", "le", "version", "python"}
    allowed |= {"mode", "backend", "weights"}
    assert {label for family in families_of(http).values() for s in family.samples for label in s.labels} <= allowed


def test_what_is_refused_is_counted(http: httpx.Client) -> None:
    before = value(http, "spikeseg_errors_total", code="time-jump")
    session = HttpSession(http)
    session.events(EVENTS[:10])
    problem_of(http.post(f"{session.path}/events", params={"until_us": 10**15}), 422)
    assert value(http, "spikeseg_errors_total", code="time-jump") == before + 1


def test_the_table_in_the_documentation_is_that_of_the_registry() -> None:
    assert table_in(DOCUMENT.read_text()) == metrics_table(), "run python -m monitoring.metrics_table"


def test_the_help_of_every_energy_metric_says_that_it_is_an_estimate() -> None:
    rows = [row for row in metrics_table().splitlines() if "joules" in row]
    assert len(rows) == 2
    assert all("Estimate, not a measurement" in row for row in rows)
