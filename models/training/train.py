"""Train a network, or its ANN twin.

    python -m models.training.train --recipe edge-s --out runs/edge-s
    python -m models.training.train --recipe edge-s --twin --out runs/edge-s-ann
    python -m models.training.train --recipe edge-s --out runs/edge-s --resume
    torchrun --nproc-per-node 4 -m models.training.train --recipe edge-l --out runs/edge-l

A recipe is a TOML file, or the name of one of ``models/training/recipes``. The run's folder gets ``curves.csv``, a
line for each score on held-out pictures; ``last.pt``, to resume from; and when it is finished ``weights.pt``, the
running mean of the weights that scored best, and ``run.json``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.machine import describe_machine, keep_freed_memory
from models.training import checkpoint
from models.training.command import run, this_command
from models.training.config import RECIPES, TrainConfig, make_config, read_recipe
from models.training.distributed import Place, average_gradients, joined, leaders_word, same_start
from models.training.shipped import SCHEME, adopting_statistics
from models.training.task import Score, Task
from models.training.tasks import MODELS, make_task

CURVES = "curves.csv"


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Running mean of a network's weights and norm statistics."""
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a config; leaks, norms and biases do not decay."""
    parameters = dict(network.named_parameters())
    free = [p for name, p in parameters.items() if name.endswith(".w") or p.ndim == 1]
    decaying = [p for name, p in parameters.items() if not (name.endswith(".w") or p.ndim == 1)]
    groups: list[dict[str, Any]] = [{"params": decaying}, {"params": free, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


class Trainer:
    """A network, its optimiser and its running mean: one call of :meth:`update` for each batch."""

    def __init__(self, task: Task, config: TrainConfig, place: Place) -> None:
        self.task = task
        self.config = config
        self.place = place
        self.network = task.make_network().to(place.device)
        if config.grow_from:
            task.grow(checkpoint.load_start(config.grow_from)[0], self.network)
        same_start(self.network, place)
        self.average = copy.deepcopy(self.network)
        self.optimizer = make_optimizer(self.network, config)
        self.updates = 0
        if config.compile:
            run: Any = self.network.forward_with_spikes
            self.network.__dict__["forward_with_spikes"] = torch.compile(run)

    def adopt(self, batch: Any) -> None:
        """Fit the batch norms of a network that was unfolded to ``batch``; what it answers stays the same."""
        with adopting_statistics(self.network):
            self.task.loss(self.network, batch, 0.0)
        same_start(self.network, self.place)
        self.average.load_state_dict(self.network.state_dict())
        self.rest()

    def rest(self) -> None:
        """Forget what the network has seen: the next batch begins anew."""
        self.task.rest(self.network)

    def update(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """Learn from one batch at ``progress`` in [0, 1); gives the parts of the loss."""
        config = self.config
        warm = min(1.0, (self.updates + 1) / config.warm_up) if config.warm_up else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        reduced = config.precision == "bfloat16"
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=reduced):
            parts = self.task.loss(self.network, batch, progress)
            loss = torch.stack([part.weight * part.value for part in parts]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.network, self.place)
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        # A young mean forgets faster, so that the random start does not linger in it.
        start = 1000 if config.grow_from else 1
        decay = min(config.ema, (start + self.updates) / (start + 9 + self.updates))
        update_average(self.average, self.network, decay)
        self.updates += 1
        return {part.name: part.value.detach() for part in parts}

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``state`` was taken."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]


class Reports:
    """Scores of a run: when they are due, the best of them, and the curves."""

    def __init__(self, trainer: Trainer, out: Path) -> None:
        self.best: Score | None = None
        self.since_best = 0
        self.made = 0
        self._trainer = trainer
        self._out = out
        self._sums: dict[str, Tensor | float] = defaultdict(float)
        self._batches = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take note of one batch's loss."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value
        self._batches += 1

    def due(self, progress: float) -> bool:
        """Whether the next score is due."""
        return self._number(progress) > self.made

    def _number(self, progress: float) -> int:
        return math.floor(min(progress, 1.0) * self._trainer.config.reports)

    def skip(self, progress: float) -> None:
        """Leave a score to the leading process."""
        self.made = self._number(progress)

    def make(self, progress: float, minutes: float) -> str:
        """Score the running mean of the weights, keep it if it is the best, and write a line of the curves."""
        self.made = self._number(progress)
        average = self._trainer.average
        score = self._trainer.task.score(average)
        if self.best is None or score.miou > self.best.miou:
            self.best, self.since_best = score, 0
            torch.save(average.state_dict(), self._out / checkpoint.BEST)
        else:
            self.since_best += 1
        line: dict[str, Any] = {"update": self._trainer.updates, "minutes": round(minutes, 2), "miou": score.miou}
        losses = {name: float(total) / max(self._batches, 1) for name, total in self._sums.items()}
        line |= {f"loss_{name}": round(value, 4) for name, value in losses.items()}
        line |= {f"iou_{name}": value for name, value in score.report.get("class_iou", {}).items()}
        self._sums.clear()
        self._batches = 0
        self._write(line)
        return "  ".join(f"{key} {value}" for key, value in line.items())

    def curve(self) -> list[dict[str, float]]:
        """Update, minutes and held-out mean IoU of every score of the run."""
        return [
            {"update": int(line["update"]), "minutes": float(line["minutes"]), "miou": float(line["miou"])}
            for line in self._lines()
        ]

    def _lines(self) -> list[dict[str, str]]:
        path = self._out / CURVES
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, line: dict[str, Any]) -> None:
        path, lines = self._out / CURVES, self._lines()
        columns = list(dict.fromkeys([key for old in lines for key in old] + list(line)))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows([*lines, line])

    def state(self) -> dict[str, Any]:
        """What resuming needs."""
        best = None if self.best is None else json.dumps({"miou": self.best.miou, "report": self.best.report})
        return {"best": best, "since_best": self.since_best, "made": self.made}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``state`` was taken."""
        best = None if state["best"] is None else json.loads(state["best"])
        self.best = None if best is None else Score(best["miou"], best["report"])
        self.since_best, self.made = state["since_best"], state["made"]


def train(
    config: TrainConfig,
    out: Path,
    root: Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    progress_bar: bool = False,
    command: str = "",
) -> Score:
    """Train a network into the folder ``out``, and give its best score on held-out data.

    ``command`` is kept with the run, for its card.

    Raises
    ------
    TrainingError
        If a setting cannot be used, or there is nothing to resume.
    DatasetNotFoundError
        If the data is not under the data root.
    """
    cv2.setNumThreads(1)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    with joined(device) as place:
        task = make_task(config, root, place.device, place.rank)
        trainer = Trainer(task, config, place)
        if config.teacher:
            task.teach_with(checkpoint.load_start(config.teacher)[0])
        reports = Reports(trainer, out)
        before = 0.0
        if resume:
            last = checkpoint.load_last(out, config)
            trainer.restore(last["trainer"])
            reports.restore(last["reports"])
            before = last["minutes"]
        elif place.leads:
            (out / CURVES).unlink(missing_ok=True)
        minutes = _run(trainer, reports, out, before, progress_bar)
        best = reports.best
        if place.leads:
            assert best is not None
            trainer.average.load_state_dict(torch.load(out / checkpoint.BEST, weights_only=True))
            task.finish(trainer.average, best)
            torch.save(trainer.average.state_dict(), out / checkpoint.WEIGHTS)
            about = {
                "command": command,
                "config": asdict(config),
                "updates_done": trainer.updates,
                "minutes_taken": round(minutes, 1),
                "processes": place.world,
                "data": task.describe(),
                "held_out": best.report,
                "curve": reports.curve(),
                "machine": describe_machine(),
            }
            if config.grow_from:
                _, about["started_from"] = checkpoint.load_start(config.grow_from)
            (out / checkpoint.RUN).write_text(json.dumps(about, indent=1) + "\n")
        return best if best is not None else Score(math.nan, {})


def _run(trainer: Trainer, reports: Reports, out: Path, before: float, progress_bar: bool) -> float:
    """Train until the budget is spent or nothing improves; minutes taken in all, those ``before`` included."""
    config, place = trainer.config, trainer.place
    started = time.monotonic()
    # A resumed run may have another budget than before: its scores are due by the new one.
    spent = trainer.updates / config.updates if config.updates else before / config.minutes
    reports.skip(spent)
    with (
        trainer.task.batches(trainer.updates) as batches,
        tqdm(total=100, unit="%", disable=not (progress_bar and place.leads), bar_format=BAR) as bar,
    ):
        adopts = config.grow_from.startswith(SCHEME) and trainer.updates == 0
        for batch in batches:
            if adopts:
                trainer.adopt(batch)
                adopts = False
            minutes = before + (time.monotonic() - started) / 60
            done = trainer.updates / config.updates if config.updates else minutes / config.minutes
            progress = leaders_word(done, place)
            if reports.due(progress):
                if place.leads:
                    bar.write(reports.make(progress, minutes))
                    values = {"trainer": trainer.state(), "reports": reports.state(), "minutes": minutes}
                    checkpoint.save_last(out, values | {"config": json.dumps(asdict(config))})
                else:
                    reports.skip(progress)
            stale = leaders_word(float(0 < config.patience <= reports.since_best), place)
            if progress >= 1 or stale:
                break
            if batches.advance(progress):
                trainer.rest()
                continue
            reports.add(trainer.update(batch, progress))
            bar.set_postfix_str(f"update {trainer.updates}")
            bar.update(100 * progress - bar.n)
    return minutes


BAR = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"


def parse(arguments: list[str] | None = None) -> tuple[TrainConfig, argparse.Namespace]:
    """The settings that a command line asks for: the recipe's, overridden."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--twin", action="store_const", const=True, help="train the ANN twin")
    parser.add_argument("--minutes", type=float, help="time budget")
    parser.add_argument("--updates", type=int, help="budget in updates, in place of minutes")
    parser.add_argument("--batch", type=int, help="sequences or pictures side by side, for each process")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_const", const=True, help="use torch.compile")
    parser.add_argument("--teacher", help="what to distil from, as --grow-from")
    parser.add_argument(
        "--grow-from", help="folder of a finished run, or zoo:NAME, to start from: the same network or a smaller one"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: one for each core")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    args = parser.parse_args(arguments)
    values: dict[str, Any] = {}
    if args.recipe:
        named = RECIPES / f"{args.recipe}.toml"
        values = read_recipe(named if named.exists() else Path(args.recipe))
    if args.minutes is not None and args.updates is None:
        values["updates"] = 0
    given = {key: getattr(args, key) for key in _OVERRIDES if getattr(args, key) is not None}
    return make_config(values | given), args


_OVERRIDES = (
    "model",
    "twin",
    "minutes",
    "updates",
    "batch",
    "seed",
    "precision",
    "compile",
    "teacher",
    "grow_from",
)


def main() -> None:
    """Command line."""
    config, args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    score = train(
        config,
        args.out,
        resume=args.resume,
        device=args.device,
        progress_bar=True,
        command=this_command("train"),
    )
    print(json.dumps(score.report, indent=1))


if __name__ == "__main__":
    run(main)
