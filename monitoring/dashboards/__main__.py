"""Writes the dashboards."""

from __future__ import annotations

from pathlib import Path

from monitoring.dashboards import dashboards, to_json

FOLDER = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"


def main() -> None:
    """Command line."""
    for name, dashboard in dashboards().items():
        (FOLDER / f"{name}.json").write_text(to_json(dashboard))


if __name__ == "__main__":
    main()
