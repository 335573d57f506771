"""Values are written with their units as a reader expects them."""

from __future__ import annotations

import math

import pytest

from monitoring.queries import filled
from monitoring.render import formatted


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0312, "s", "31.2 ms"),
        (90.0, "s", "1.5 min"),
        (2.2e-4, "joule", "220 µJ"),
        (0.0034, "watt", "3.4 mW"),
        (830_361_728, "short", "830M"),
        (0.25, "cps", "0.25/s"),
        (0.0515, "percentunit", "5.15 %"),
        (-91.58, "percentunit", "-9,158 %"),
        (9.1e6, "bytes", "8.68 MiB"),
        (3, "none", "3"),
        (0, "watt", "0 W"),
        (math.nan, "s", "–"),
    ],
)
def test_a_value_has_its_unit(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


def test_a_panel_may_say_how_many_decimals() -> None:
    assert (formatted(18.8345, "none", 1), formatted(0.99513, "percentunit", 2)) == ("18.8", "99.51 %")


def test_variables_are_filled_in_as_grafana_does() -> None:
    expression = 'sum(increase(x{job=~"$job", instance=~"$instance"}[$__range])) / rate(y[$__rate_interval])'
    assert filled(expression, rate_interval="20s", range="5m", instance="a:1") == (
        'sum(increase(x{job=~".+", instance=~"a:1"}[5m])) / rate(y[20s])'
    )
