"""Replicas of the service under load, a Prometheus that scrapes them, and an Alertmanager that tells of what is wrong.

All of them are real processes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import pytest
import yaml
from matplotlib.image import imread

from monitoring.queries import Prometheus, Target, filled
from monitoring.render import Span, render
from tests.monitoring.load import Load, running_load
from tests.monitoring.stack import RULES, Webhook, running_alertmanager, running_prometheus, running_webhook
from tests.monitoring.test_dashboards import all_targets, selectors
from tests.service.real_servers import MissingProgramError
from tests.service.replicas import Replicas, running_replicas, wait_until

RATE_INTERVAL = "10s"


@dataclass(frozen=True)
class Watched:
    """Two replicas, what keeps them busy, what watches them, and where alerts arrive."""

    replicas: Replicas
    load: Load
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two replicas that are under load."""
    folder = tmp_path_factory.mktemp("watched")
    try:
        with (
            running_replicas(folder, checkpoint_seconds=0.2) as replicas,
            running_webhook() as webhook,
            running_alertmanager(folder / "alertmanager", webhook.url) as alertmanager,
            running_prometheus(
                folder / "prometheus",
                [replica.url.removeprefix("http://") for replica in replicas],
                alertmanager=alertmanager,
                hold={"SpikesegReplicaDown": "1s"},
            ) as url,
            running_load([replica.url for replica in replicas]) as load,
        ):
            prometheus = Prometheus(url)
            wait_until(lambda: has_seen_enough(prometheus), "Prometheus has seen the load for a while")
            yield Watched(replicas, load, prometheus, webhook)
    except MissingProgramError as error:
        pytest.skip(str(error))


def has_seen_enough(prometheus: Prometheus) -> bool:
    """Whether every server has been scraped a while since it was first busy, and the rules evaluated."""
    busy = "min(count_over_time((sum by (instance) (spikeseg_windows_total) > 0)[5m:1s]))"
    seen = prometheus.query(busy)
    return bool(seen) and float(seen[0]["value"][1]) >= 15


@pytest.mark.parametrize("target", all_targets(), ids=str)
def test_every_panel_has_data(watched: Watched, target: Target) -> None:
    series = watched.prometheus.query(filled(target.expression, rate_interval=RATE_INTERVAL, range="5m"))
    assert series
    assert any(math.isfinite(float(each["value"][1])) for each in series)
    for label in re.findall(r"{{(\w+)}}", target.legend):
        assert all(each["metric"].get(label) for each in series), f"no label {label} to name the series by"


def test_chosen_models_and_instances_narrow_what_is_shown(watched: Watched) -> None:
    (up,) = (t for t in all_targets() if t.panel["title"] == "Servers up")
    first = watched.replicas[0].url.removeprefix("http://")
    everything = watched.prometheus.query(filled(up.expression, rate_interval=RATE_INTERVAL, range="5m"))
    one = watched.prometheus.query(filled(up.expression, rate_interval=RATE_INTERVAL, range="5m", instance=first))
    # Prometheus scrapes itself as well: it is no server of the service.
    assert (everything[0]["value"][1], one[0]["value"][1]) == ("2", "1")


def test_every_recording_rule_has_data(watched: Watched) -> None:
    for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]:
        for rule in group["rules"]:
            series = watched.prometheus.query(rule["record"])
            assert series, rule["record"]
            assert any(math.isfinite(float(each["value"][1])) for each in series), rule["record"]


def test_everything_that_an_alert_looks_at_is_there(watched: Watched) -> None:
    """An alert on a metric of a name that is not there would never fire."""
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            for selector in selectors(promql_parser.parse(rule["expr"])):
                assert watched.prometheus.query(selector.prettify()), f"{rule['alert']}: {selector.prettify()}"


def test_prometheus_finds_no_fault_with_its_rules(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []


def test_the_dashboards_can_be_drawn(watched: Watched, tmp_path: Path) -> None:
    now = time.time()
    made = render(watched.prometheus, Span(now - 20, now, RATE_INTERVAL), tmp_path)
    assert [path.name for path in made] == [f"monitoring-{name}.png" for name in ("fleet", "service", "spikes")]
    for path in made:
        height, width, _ = imread(path).shape
        assert width > 1000
        assert height > 500


def test_a_replica_that_dies_is_told_of(watched: Watched) -> None:
    watched.load.stop()
    dead = watched.replicas[1]
    watched.replicas.kill(1)
    receiver, alert = watched.webhook.wait_for(lambda alert: alert["labels"]["alertname"] == "SpikesegReplicaDown")
    assert (receiver, alert["status"]) == ("pages", "firing")
    assert alert["labels"]["instance"] == dead.url.removeprefix("http://")
    assert alert["annotations"]["runbook_url"] == "docs/monitoring.md#spikesegreplicadown"
