"""Command line of the results page."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.training import report
from models.training.command import run
from models.training.report.jobs import rerun
from models.training.report.results import DOCS, RESULTS
from models.training.report.write import write_report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.report",
        description=report.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rerun", action="store_true", help="make every JSON file again first; takes hours")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of results.md and results/")
    args = parser.parse_args()
    if args.rerun:
        rerun(args.docs / RESULTS, lambda line: print(line, flush=True))
    for line in write_report(args.docs):
        print(line)


if __name__ == "__main__":
    run(main)
