"""The cards and stored results that the page is made of, and what is read from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from models import zoo
from models.training.report.networks import NETWORKS, with_twins

Record = Mapping[str, Any]

DOCS = Path("docs")
RESULTS = "results"


@dataclass(frozen=True, slots=True)
class Results:
    """All that the page is made of.

    Attributes
    ----------
    cards : mapping
        Cards of the zoo by network; those without scores are left out.
    stored : mapping
        What the files of ``docs/results`` hold, by name without suffix.
    remarks : str
        Text on expectations that were not reached, or nothing.
    """

    cards: Mapping[str, Record]
    stored: Mapping[str, Record]
    remarks: str = ""

    def present(self, names: Iterable[str]) -> list[str]:
        """Those of some networks that have a card."""
        return [name for name in names if name in self.cards]

    def absent(self, names: Iterable[str]) -> list[str]:
        """Those of some networks that have no card."""
        return [name for name in names if name not in self.cards]

    def scores(self, name: str) -> Record:
        """A network's scores; empty without a card."""
        return self._part(name, "frames") or self._part(name, "stream")

    def twin_scores(self, name: str) -> Record:
        """Its twin's scores, as its own card has them; empty where it has none."""
        return self._part(name, "ann_twin")

    def reset_scores(self, name: str) -> Record:
        """Its scores with the state reset for every window; empty where there are none."""
        return self._part(name, "reset_every_window")

    def over_twin(self, name: str) -> float | None:
        """A network's mIoU less its twin's."""
        return difference(self.scores(name).get("miou"), self.twin_scores(name).get("miou"))

    def measured(self, kind: str, names: Iterable[str]) -> dict[str, Record]:
        """Stored measurements of a kind, for those of some networks that have one."""
        return {name: self.stored[stem] for name in names if (stem := f"{kind}-{name}") in self.stored}

    def frame_robustness(self) -> Record | None:
        """Robustness of the frame network, whichever file it is in."""
        parts = (record.get("frames") for stem, record in self.stored.items() if stem.startswith("robustness-"))
        return next((part for part in parts if part), None)

    def curves(self) -> dict[str, list[Record]]:
        """Scores in the course of training by network, where the cards hold some."""
        found = {name: self.cards[name]["training"].get("curve") for name in self.present(with_twins(NETWORKS))}
        return {name: curve for name, curve in found.items() if curve}

    def _part(self, name: str, part: str) -> Record:
        scores: Record = self.cards.get(name, {}).get("evaluation", {}).get(part, {})
        return scores


def read_results(folder: Path, zoo_folder: Path = zoo.ZOO) -> Results:
    """The cards of a zoo, and the JSON files and remarks of a results folder."""
    cards = {name: json.loads((zoo_folder / f"{name}.json").read_text()) for name in zoo.names(zoo_folder)}
    remarks = folder / "remarks.md"
    return Results(
        {name: card for name, card in cards.items() if "evaluation" in card},
        {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))},
        remarks.read_text() if remarks.is_file() else "",
    )


def steps(card: Record) -> int:
    """Time steps of a network's answer; an ANN takes one."""
    config = card["config"]
    return int(config.get("steps", 1)) if config.get("spiking", True) else 1


def known(value: float | None) -> TypeGuard[float]:
    """Whether a value was measured and is a number."""
    return value is not None and not math.isnan(value)


def difference(value: float | None, other: float | None) -> float | None:
    """One value less another, if both were measured."""
    return None if value is None or other is None else value - other
