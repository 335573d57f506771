"""What was scored on what: data, training and machine of each network."""

from __future__ import annotations

from collections.abc import Iterable

from models.training.report.markdown import NOTHING, code, details, machine, not_in_zoo, number, table
from models.training.report.networks import NETWORKS, with_twins
from models.training.report.results import Record, Results, steps

HEADER = (
    "network",
    "trained on",
    "held out",
    "machine",
    "seed",
    "last budget",
    "updates in all",
    "minutes in all",
    "steps",
)


def origin_section(results: Results) -> list[str]:
    """The section's lines."""
    cards = {name: results.cards[name] for name in results.present(with_twins(results.present(NETWORKS)))}
    lines = ["## What was scored on what", ""]
    if not cards:
        return [*lines, *not_in_zoo(NETWORKS)]
    data = ((card["evaluation"]["data"], name) for name, card in cards.items())
    lines += [f"- {text}: {code(*names)}" for text, names in _grouped(data)]
    seeds = sorted({str(card["training"]["settings"]["seed"]) for card in cards.values()})
    lines += [
        "",
        f"Every figure is of one training run (seed {', '.join(seeds)}), and those of events are of one drive. How far "
        "another seed or another drive would move them was not measured.",
        "",
        *table(HEADER, [_row(name, card) for name, card in cards.items()], left=4),
        "Networks ending in `-ann` are the ANN twins. The cards say:",
        "",
    ]
    notes = ((note, name) for name, card in cards.items() for note in card.get("notes", []))
    lines += [f"- {note} ({code(*names)})" for note, names in _grouped(notes)]
    commands = [card[part]["command"] for part in ("training", "evaluation") for card in cards.values()]
    return [*lines, "", *details("Commands that trained and scored them", ["```sh", *commands, "```", ""])]


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """The names that each text belongs to."""
    groups: dict[str, list[str]] = {}
    for text, name in pairs:
        groups.setdefault(text, []).append(name)
    return list(groups.items())


def _row(name: str, card: Record) -> list[str]:
    training = card["training"]
    settings = training["settings"]
    described = training.get("machine", settings.get("machine"))
    material = training.get("material", {})
    return [
        code(name),
        _material(material, "training"),
        _material(material, "held_out"),
        machine(described) if described else NOTHING,
        f"{settings['seed']}",
        _budget(settings),
        f"{training.get('updates_in_all', settings.get('updates_done', NOTHING))}",
        number(training.get("minutes_in_all"), 1),
        f"{steps(card)}",
    ]


def _material(material: Record, use: str) -> str:
    """Pictures, with how many there are, or drives."""
    pictures = [f"{name} ({count} pictures)" for name, count in material.get(f"{use}_pictures", {}).items()]
    return ", ".join([*pictures, *material.get(f"{use}_drives", [])]) or NOTHING


def _budget(settings: Record) -> str:
    """What ended the training: a number of updates, if one was set, or the time."""
    if settings["updates"] or "minutes" not in settings:
        return f"{settings['updates']} updates"
    return f"{settings['minutes']:g} min"
