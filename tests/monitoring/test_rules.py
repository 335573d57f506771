"""Prometheus' and Alertmanager's own tools take the configuration, and the rules do what their tests say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.metrics_table import DOCUMENT
from monitoring.queries import MONITORING
from tests.monitoring.stack import ALERTMANAGER_CONFIG, PROMETHEUS_CONFIG, RULES, amtool, promtool
from tests.service.harness import REPOSITORY
from tests.service.real_servers import MissingProgramError

RULE_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))
ALERTS = [
    rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def run_tool(program: Callable[[], str], *arguments: object) -> None:
    """Run a tool, which must be content."""
    try:
        command = [program(), *map(str, arguments)]
    except MissingProgramError as error:
        pytest.skip(str(error))
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_takes_the_configuration() -> None:
    run_tool(promtool, "check", "config", PROMETHEUS_CONFIG)


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yml")), ids=lambda path: path.stem)
def test_promtool_takes_the_rules(path: Path) -> None:
    run_tool(promtool, "check", "rules", "--lint-fatal", path)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path: Path) -> None:
    run_tool(promtool, "test", "rules", path)


def test_amtool_takes_the_configuration() -> None:
    run_tool(amtool, "check-config", ALERTMANAGER_CONFIG)


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pages"), ("ticket", "tickets")])
def test_alerts_go_to_the_receiver_of_their_severity(severity: str, receiver: str) -> None:
    arguments = ("config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}", f"--verify.receivers={receiver}")
    run_tool(amtool, *arguments, "alertname=SpikesegAnything", f"severity={severity}")


@every_alert
def test_every_alert_says_how_urgent_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"]
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / path).read_text(), re.MULTILINE)
    assert REPOSITORY / path == DOCUMENT
    assert anchor in {heading.strip("`").lower() for heading in headings}
    assert anchor == alert["alert"].lower()


@every_alert
def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(alert: dict[str, Any]) -> None:
    expectations = [
        bool(case.get("exp_alerts"))
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert["alert"]
    ]
    assert set(expectations) == {True, False}


def test_inhibitions_name_alerts_that_there_are() -> None:
    known = {alert["alert"] for alert in ALERTS}
    for rule in yaml.safe_load(ALERTMANAGER_CONFIG.read_text())["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            names = re.search(r'"(.+)"', matcher)
            assert names is not None
            assert set(names[1].split("|")) <= known


def test_grafana_is_shown_the_dashboards_and_the_prometheus_that_compose_mounts() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "spikeseg.yml").read_text())["providers"]
    scrape = yaml.safe_load(PROMETHEUS_CONFIG.read_text())["global"]["scrape_interval"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == scrape
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
