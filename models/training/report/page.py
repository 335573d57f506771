"""The page as a whole."""

from __future__ import annotations

from models.training.report.results import Results
from models.training.report.sections.classes import classes_section
from models.training.report.sections.conversion import conversion_section
from models.training.report.sections.curves import curves_section
from models.training.report.sections.energy import energy_section
from models.training.report.sections.expectations import expectations_section
from models.training.report.sections.masks import masks_section
from models.training.report.sections.origin import origin_section
from models.training.report.sections.robustness import robustness_section
from models.training.report.sections.scores import scores_section
from models.training.report.sections.weights import weights_section

INTRODUCTION = (
    "# Results",
    "",
    "Written by `python -m models.training.report` from the cards in `models/zoo/` and the JSON files in "
    "`docs/results/`; changes by hand are lost. `--rerun` makes the JSON files anew first.",
    "",
)
SECTIONS = (
    origin_section,
    scores_section,
    classes_section,
    expectations_section,
    conversion_section,
    robustness_section,
    energy_section,
    weights_section,
    curves_section,
    masks_section,
)


def render(results: Results) -> str:
    """The page as Markdown: it depends on the results alone."""
    lines = [*INTRODUCTION, *(line for section in SECTIONS for line in section(results))]
    return "\n".join(lines).rstrip("\n") + "\n"
