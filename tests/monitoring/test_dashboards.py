"""The dashboards are what their generator writes, fit Grafana's schema, and keep the rules of its linter.

The tests whose names end in ``_rule`` are rules of https://github.com/grafana/dashboard-linter, by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import dashboards, to_json
from monitoring.queries import DASHBOARDS, Target, dashboard_names, filled, panels, read_dashboard, targets
from service.metrics import ServiceMetrics
from tests.monitoring.stack import RULES

# Stands for $__rate_interval where an expression is parsed; nobody would write it.
RATE_INTERVAL_S = 423
AS_THEY_ARE = {name: f"${name}" for name in ("job", "instance", "model")}
# Of grafana/packages/grafana-data/src/valueFormats/categories.ts, those that are used.
UNITS = {"none", "short", "percentunit", "s", "bytes", "joule", "watt", "cps"}
EXCLUSIONS = yaml.safe_load((DASHBOARDS / ".lint").read_text())["exclusions"]

every_dashboard = pytest.mark.parametrize("name", dashboard_names())


def all_targets() -> list[Target]:
    """The queries of all dashboards."""
    return [target for name in dashboard_names() for target in targets(read_dashboard(name))]


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A dashboard's variables by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def parsed(expression: str) -> promql_parser.Expr:
    """An expression's syntax tree."""
    return promql_parser.parse(filled(expression, rate_interval=f"{RATE_INTERVAL_S}s", range="1h", **AS_THEY_ARE))


def nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """The expression and everything within it."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    """Every place where an expression names a metric."""
    for node in nodes(expression):
        if isinstance(node, promql_parser.VectorSelector):
            yield node


def is_excluded(rule: str, target: Target) -> bool:
    """Whether ``.lint`` makes an exception, with its reason."""
    exclusion = EXCLUSIONS.get(rule, {"entries": []})
    return {"dashboard": target.dashboard, "panel": target.panel["title"]} in exclusion["entries"]


def test_the_files_are_what_the_generator_writes() -> None:
    made = {name: to_json(dashboard) for name, dashboard in dashboards().items()}
    assert dashboard_names() == sorted(made)
    for name, text in made.items():
        assert (DASHBOARDS / f"{name}.json").read_text() == text, "run python -m monitoring.dashboards"


@every_dashboard
def test_nothing_in_a_dashboard_is_unknown_to_grafanas_schema(name: str) -> None:
    """What the schema does not know is lost on the way through its types."""
    plugins.register_default_plugins()
    document = read_dashboard(name)
    again = JSONEncoder(sort_keys=True, indent=1).encode(Dashboard.from_json(document)) + "\n"
    assert again == (DASHBOARDS / f"{name}.json").read_text()
    assert document["schemaVersion"] >= 36
    assert document["uid"] == f"spikeseg-{name}"


@every_dashboard
def test_panels_have_numbers_of_their_own_and_stand_beside_each_other(name: str) -> None:
    document = read_dashboard(name)
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@every_dashboard
def test_every_metric_is_one_that_the_service_has(name: str) -> None:
    known = {"up"} | {name for family in ServiceMetrics().registry.collect() for name in names_of(family)}
    recorded = {
        rule["record"]
        for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    for target in targets(read_dashboard(name)):
        assert {selector.name for selector in selectors(parsed(target.expression))} <= known | recorded, target


def names_of(family: Any) -> list[str]:
    """The names under which a metric's samples come."""
    suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_count", "_sum"]}
    return [family.name + suffix for suffix in suffixes.get(family.type, [""])]


@every_dashboard
def test_template_datasource_rule(name: str) -> None:
    sources = [v for v in variables(read_dashboard(name)).values() if v["type"] == "datasource"]
    assert [(v["name"], v["label"], v["query"]) for v in sources] == [("datasource", "Data source", "prometheus")]


@every_dashboard
@pytest.mark.parametrize("variable", ["job", "instance"])
def test_template_job_rule_and_template_instance_rule(name: str, variable: str) -> None:
    template = variables(read_dashboard(name))[variable]
    assert template["type"] == "query"
    assert template["label"] == variable.title()
    assert template["datasource"]["uid"] == "${datasource}"
    assert template["multi"] is True
    assert template["allValue"] == ".+"


@every_dashboard
def test_template_label_promql_rule(name: str) -> None:
    for variable in variables(read_dashboard(name)).values():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert asked, variable["query"]
            assert isinstance(parsed(asked[1]), promql_parser.VectorSelector)


@every_dashboard
def test_template_on_time_change_reload_rule(name: str) -> None:
    for variable in variables(read_dashboard(name)).values():
        assert variable["type"] != "query" or variable["refresh"] == 2


@every_dashboard
def test_uneditable_rule(name: str) -> None:
    assert read_dashboard(name)["editable"] is False


@every_dashboard
def test_panel_datasource_rule(name: str) -> None:
    for panel in panels(read_dashboard(name)):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]


@every_dashboard
def test_panel_title_description_rule(name: str) -> None:
    for panel in panels(read_dashboard(name)):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]


@every_dashboard
def test_panel_units_rule(name: str) -> None:
    for panel in panels(read_dashboard(name)):
        about = panel["options"]["cellValues"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert about["unit"] in UNITS, panel["title"]


@every_dashboard
def test_panel_no_targets_rule(name: str) -> None:
    assert all(panel["targets"] for panel in panels(read_dashboard(name)))


@every_dashboard
def test_target_promql_rule(name: str) -> None:
    for target in targets(read_dashboard(name)):
        parsed(target.expression)


@every_dashboard
def test_target_rate_interval_rule(name: str) -> None:
    for target in targets(read_dashboard(name)):
        for node in nodes(parsed(target.expression)):
            if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "irate"):
                assert node.args[0].range.total_seconds() == RATE_INTERVAL_S, target


@every_dashboard
@pytest.mark.parametrize("label", ["job", "instance"])
def test_target_job_rule_and_target_instance_rule(name: str, label: str) -> None:
    for target in targets(read_dashboard(name)):
        if is_excluded(f"target-{label}-rule", target):
            continue
        for selector in selectors(parsed(target.expression)):
            matchers = [(matcher.name, matcher.op, matcher.value) for matcher in selector.matchers.matchers]
            assert (label, promql_parser.MatchOp.Re, f"${label}") in matchers, target


@every_dashboard
def test_target_counter_agg_rule(name: str) -> None:
    for target in targets(read_dashboard(name)):
        found = nodes(parsed(target.expression))
        growing = [
            node.args[0].vector_selector.name
            for node in found
            if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "irate", "increase")
        ]
        counters = [node.name for node in found if isinstance(node, promql_parser.VectorSelector)]
        assert [each for each in counters if each.endswith("_total")] == [
            each for each in growing if each.endswith("_total")
        ], target


def test_every_exception_is_needed() -> None:
    shown = {(target.dashboard, target.panel["title"]) for target in all_targets()}
    for exclusion in EXCLUSIONS.values():
        assert exclusion["reason"]
        assert {(entry["dashboard"], entry["panel"]) for entry in exclusion["entries"]} <= shown
