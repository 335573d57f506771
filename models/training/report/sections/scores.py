"""How well the networks see: the main tables."""

from __future__ import annotations

from models import zoo
from models.training.report.markdown import MEGA, code, in_unit, not_in_zoo, number, percent, table
from models.training.report.networks import EVENTS, FRAMES
from models.training.report.results import Record, Results, steps

SCORES = ("parameters, M", "steps", "mIoU", "pixel accuracy", "firing rate")
TWIN = ("twin's mIoU", "difference")


def scores_section(results: Results) -> list[str]:
    """The section's lines."""
    events = [_event_row(results, name) for name in results.present(EVENTS)]
    event_header = ["network", "mode", *SCORES, "SOPs/window, M", *TWIN, "mIoU, reset every window"]
    frames = [[code(name), *_score_cells(results, name)] for name in results.present(FRAMES)]
    frame_header = ["network", *SCORES, "SOPs/picture, M", *TWIN]
    return [
        "## How well the networks see",
        "",
        "Networks of events:",
        "",
        *(table(event_header, events, left=2) if events else []),
        "*streaming*: one step for each window, membranes carried on. *protocol*: T steps from rest for each window. "
        "Steps are those of one answer; firing rate: spikes for each neuron and step, mean over windows; SOPs: "
        "synaptic operations of all steps, padding counted in; difference: the network's mIoU less its twin's.",
        "",
        *not_in_zoo(results.absent(EVENTS)),
        "Networks of frames:",
        "",
        *(table(frame_header, frames) if frames else []),
        *not_in_zoo(results.absent(FRAMES)),
    ]


def _event_row(results: Results, name: str) -> list[str]:
    reset = number(results.reset_scores(name).get("miou"))
    return [code(name), _mode(results.cards[name]), *_score_cells(results, name), reset]


def _mode(card: Record) -> str:
    return "streaming" if card["format"] == zoo.FORMAT else "protocol"


def _score_cells(results: Results, name: str) -> list[str]:
    card, scores = results.cards[name], results.scores(name)
    return [
        in_unit(MEGA, card["parameters"]),
        f"{steps(card)}",
        f"**{number(scores['miou'])}**",
        number(scores["pixel_accuracy"]),
        percent(scores["firing_rate"]),
        in_unit(MEGA, scores["sops_per_window"]),
        number(results.twin_scores(name).get("miou")),
        number(results.over_twin(name), signed=True),
    ]
