"""Training: what one update does, and whole small runs: interrupted, resumed, grown, taught, on two processes."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, EdgeDeepLab
from models.datasets import camvid
from models.errors import TrainingError
from models.events import SensorSize
from models.training import chunk_sources, holdout, stream_task
from models.training.cards import training_card
from models.training.checkpoint import load_last, load_run
from models.training.config import RECIPES, Loss, Phase, StreamData, TrainConfig, make_config, read_recipe
from models.training.distributed import Place
from models.training.export import export, rescore
from models.training.grow import grow
from models.training.history import HISTORY, History
from models.training.sequences import Chunk
from models.training.shipped import adopting_statistics, unfold
from models.training.stream_task import StreamTask, at_once, class_weights, start_rows_from_rest
from models.training.train import Trainer, parse, train, update_average

TINY = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, pyramid_rates=(1, 2), readout_scale=2)
SMALL_STREAM = StreamData(
    phases=(Phase(0.5, 48, 64, (0.3, 0.5)), Phase(0.5, 64, 64, (0.3, 0.5))), chunk=3, chunks=(1, 2)
)
SMALL = TrainConfig(updates=4, batch=2, reports=2, stream=SMALL_STREAM)
ALONE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def tiny_networks(data_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data tree as data root, and the networks and the sensor made tiny."""
    monkeypatch.setattr(chunk_sources, "SENSOR", SensorSize(64, 48))
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    monkeypatch.setitem(stream_task.ARCHITECTURES, "edge-s", TINY)
    monkeypatch.setitem(stream_task.ARCHITECTURES, "edge-l", replace(TINY, stride4=6, stride8=12, decoder=5))


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def test_rare_classes_weigh_more_up_to_the_cap() -> None:
    assert class_weights((0.64, 0.16, 0.04, 0.0001), cap=6.0).tolist() == pytest.approx([1, 2, 4, 6])


@pytest.mark.parametrize(("fresh", "steps", "judged"), [(True, 2, False), (True, 3, True), (False, 2, True)])
def test_the_first_windows_after_a_reset_are_not_judged(fresh: bool, steps: int, judged: bool) -> None:
    torch.manual_seed(0)
    trainer = Trainer(StreamTask(SMALL), SMALL, ALONE)
    counts = np.ones((steps, 1, 2, 24, 24), np.float32)
    losses = trainer.update(Chunk(counts, np.ones((steps, 1, 12, 12), np.uint8), np.array([fresh])), 0.0)
    assert (losses["cross_entropy"] > 0) == judged


def test_the_first_update_learns_too() -> None:
    torch.manual_seed(0)
    trainer = Trainer(StreamTask(SMALL), replace(SMALL, warm_up=4), ALONE)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    chunk = Chunk(np.ones((4, 1, 2, 24, 24), np.float32), np.ones((4, 1, 12, 12), np.uint8), np.array([False]))
    rates = []
    for _ in range(5):
        trainer.update(chunk, 0.0)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / SMALL.learning_rate)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


def test_windows_shown_together_are_one_step() -> None:
    x = torch.arange(1, 5).float()[:, None, None, None, None].expand(4, 1, 2, 2, 2)
    assert at_once(x, TINY).flatten().tolist() == [TINY.count_clip] * 8
    twin = replace(TINY, spiking=False, input_channels=2 * HISTORY)
    assert at_once(x, twin)[0, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("twin", [False, True])
def test_windows_may_be_shown_together_before_a_state_is_carried(twin: bool, tmp_path: Path) -> None:
    phases = (Phase(0.5, 48, 64, (0.3, 0.5), together=3), *SMALL_STREAM.phases[1:])
    train(replace(SMALL, twin=twin, stream=replace(SMALL_STREAM, phases=phases)), tmp_path)
    assert [int(line["update"]) for line in curves(tmp_path)] == [2, 4]


def test_the_running_mean_keeps_its_share() -> None:
    average, network = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    average.weight.data.fill_(1.0)
    network.weight.data.fill_(5.0)
    update_average(average, network, 0.75)
    assert float(average.weight.detach()) == pytest.approx(2.0)


def test_fresh_rows_start_from_rest_and_the_others_carry_on() -> None:
    torch.manual_seed(0)
    network = EdgeDeepLab(TINY).eval()
    x = torch.randint(0, 3, (4, 2, 2, 24, 24)).float()
    with torch.no_grad():
        functional.reset_net(network)
        whole = network(x)
        functional.reset_net(network)
        network(x[:2])
        start_rows_from_rest(network, torch.tensor([True, False]))
        carried = network(x[2:])
        functional.reset_net(network)
        rested = network(x[2:])
    torch.testing.assert_close(carried[:, 1], whole[2:, 1])
    torch.testing.assert_close(carried[:, 0], rested[:, 0])


def test_the_twin_sees_the_windows_before_and_forgets_them_on_a_fresh_row() -> None:
    history = History()
    x = torch.arange(1, 5).float()[:, None, None, None, None].expand(4, 2, 2, 1, 1)
    first = history.stack(x)
    assert first.shape == (4, 2, 2 * HISTORY, 1, 1)
    assert first[3, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    later = history.stack(x[:1] + 4, torch.tensor([True, False]))
    assert later[0, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 5]
    assert later[0, 1, ::2, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]


def test_training_and_held_out_pictures_are_apart() -> None:
    stills = camvid.load("train") * 60
    training, held_out = holdout.split(stills)
    assert (len(training), len(held_out)) == (110, 10)
    few, one = holdout.split(stills[:3])
    assert (len(few), len(one)) == (2, 1)


def test_a_class_that_is_not_held_out_gets_no_bias() -> None:
    truth = np.zeros((8, 8), np.uint8)
    logits = torch.stack([torch.zeros(8, 8), torch.full((8, 8), -0.3)])
    logits[1, :, :2] = 0.5
    bias = holdout.fit_class_bias([holdout.HeldOutDrive(torch.empty(0), truth)], [logits])
    assert bias[1] == 0


def test_the_class_bias_mends_a_network_that_expects_too_much_of_a_class() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:, :2] = 1
    logits = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 0.6)])
    logits[1, :, :2] = 1.4
    drives = [holdout.HeldOutDrive(torch.empty(0), truth)]
    bias = holdout.fit_class_bias(drives, [logits])
    assert holdout.score(drives, [logits]).tolist() == [[0, 48], [0, 16]]
    assert holdout.score(drives, [logits], bias).tolist() == [[48, 0], [0, 16]]


def test_a_whole_small_run_from_pictures_to_the_zoo(tmp_path: Path) -> None:
    for twin in (False, True):
        train(replace(SMALL, twin=twin), tmp_path / f"run-{twin}")
    lines = curves(tmp_path / "run-False")
    assert [int(line["update"]) for line in lines] == [2, 4]
    assert math.isfinite(float(lines[-1]["loss_cross_entropy"]))
    assert {"miou", "iou_flat", "loss_dice", "loss_rate"} <= set(lines[0])

    card = export("edge-s", tmp_path / "run-False", tmp_path / "run-True", folder=tmp_path)
    model, twin_model = zoo.load("edge-s", tmp_path), zoo.load("edge-s-ann", tmp_path)
    assert model.card["evaluation"] == card["evaluation"]
    assert card["evaluation"]["ann_twin"]["miou"] == twin_model.card["evaluation"]["stream"]["miou"]
    assert card["training"]["material"]["held_out_pictures"] == {"CamVid train": 1}
    with pytest.raises(TrainingError, match="is not a run of an ANN twin"):
        export("edge-s", tmp_path / "run-False", tmp_path / "run-False", folder=tmp_path)
    assert rescore("edge-s", tmp_path) == card
    train(replace(SMALL, twin=True, batch=1), tmp_path / "other")
    with pytest.raises(TrainingError, match="trained with other settings: batch"):
        export("edge-s", tmp_path / "run-False", tmp_path / "other", folder=tmp_path)


def test_a_finished_run_has_the_class_bias_that_it_was_scored_with(tmp_path: Path) -> None:
    score = train(SMALL, tmp_path)
    network, run = load_run(tmp_path)
    assert run["held_out"] == score.report
    bias = torch.tensor(run["held_out"]["class_bias"])
    task = StreamTask(SMALL)
    with_bias = task._held_out_logits(network)
    matrix = holdout.score(task._drives, with_bias)
    assert matrix.tolist() == run["held_out"]["confusion_matrix"]
    assert len(bias) == TINY.classes
    assert network.synapses[READOUT].bias.shape == (TINY.classes * 4,)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    config = replace(SMALL, stream=replace(SMALL_STREAM, phases=SMALL_STREAM.phases[:1]))
    for name in ("a", "b"):
        train(config, tmp_path / name)
    a, b = (load_run(tmp_path / name)[0].state_dict() for name in ("a", "b"))
    assert all(torch.equal(value, b[key]) for key, value in a.items())


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    train(replace(SMALL, updates=2, reports=1), tmp_path)
    train(SMALL, tmp_path, resume=True)
    assert [int(line["update"]) for line in curves(tmp_path)] == [2, 4]
    assert json.loads((tmp_path / "run.json").read_text())["updates_done"] == 4


def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    train(SMALL, tmp_path)
    train(replace(SMALL, updates=8), tmp_path, resume=True)
    assert [int(line["update"]) for line in curves(tmp_path)] == [2, 4, 8]


def test_resuming_what_is_finished_changes_nothing(tmp_path: Path) -> None:
    first = train(SMALL, tmp_path)
    before = load_run(tmp_path)[0].state_dict()
    assert train(SMALL, tmp_path, resume=True) == first
    after = load_run(tmp_path)[0].state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume"):
        train(SMALL, tmp_path, resume=True)
    train(SMALL, tmp_path)
    with pytest.raises(TrainingError, match="had other settings: batch, seed"):
        load_last(tmp_path, replace(SMALL, batch=3, seed=5))
    with pytest.raises(TrainingError, match="holds no finished run"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "last.pt").write_bytes(b"half a checkpoint")
    with pytest.raises(TrainingError, match="is damaged"):
        load_last(tmp_path, SMALL)


def test_a_run_stops_early_when_nothing_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = StreamTask.score
    scores = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(StreamTask, "score", lambda *args: replace(best(*args), miou=next(scores)))
    score = train(replace(SMALL, updates=8, reports=8, patience=2), tmp_path)
    assert score.miou == 0.5
    assert [int(line["update"]) for line in curves(tmp_path)] == [1, 2, 3]


def test_a_larger_network_starts_from_a_smaller_one(tmp_path: Path) -> None:
    train(SMALL, tmp_path / "small")
    small, _ = load_run(tmp_path / "small")
    large = EdgeDeepLab(stream_task.ARCHITECTURES["edge-l"]).eval()
    grow(small, large)
    x = torch.randint(0, 3, (3, 2, 2, 40, 52)).float()
    with torch.no_grad():
        functional.reset_net(small)
        torch.testing.assert_close(large(x), small(x))
    with pytest.raises(TrainingError, match="cannot shrink"):
        grow(large, EdgeDeepLab(TINY))
    with pytest.raises(TrainingError, match="same input, layers and kind of neurons"):
        grow(small, EdgeDeepLab(replace(TINY, spiking=False, input_channels=2 * HISTORY)))
    config = replace(SMALL, model="edge-l", grow_from=str(tmp_path / "small"))
    train(config, tmp_path / "large")
    assert load_run(tmp_path / "large")[0].config == stream_task.ARCHITECTURES["edge-l"]


@pytest.mark.parametrize("twin", [False, True])
def test_a_shipped_network_learns_on_from_where_it_was(
    twin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = zoo.load("edge-s-ann" if twin else "edge-s")
    network = unfold(shipped)
    x = torch.randint(0, 3, (2, 1, shipped.runtime.config.input_channels, 48, 64)).float()

    def answers() -> torch.Tensor:
        functional.reset_net(network)
        with torch.no_grad():
            return network(x)

    state = shipped.runtime.initial_state(1, 48, 64)
    if not twin:
        expected = []
        for counts in x:
            result = shipped.runtime.step(state, counts)
            state = result.state
            expected.append(result.logits)
        torch.testing.assert_close(answers(), torch.stack(expected), rtol=1e-3, atol=1e-3)
    before = answers()
    functional.reset_net(network)
    with adopting_statistics(network.train()):
        network(x)
    norm = network.get_submodule("synapses.stem.1")
    assert not torch.allclose(norm.running_mean, torch.zeros(1))
    # On the batch whose statistics were adopted, training begins at the same answers.
    for mode in (False, True):
        torch.testing.assert_close(network.train(mode) and answers(), before, rtol=1e-3, atol=1e-3)

    monkeypatch.setitem(stream_task.ARCHITECTURES, "edge-s", zoo.load("edge-s").runtime.config)
    start = f"zoo:{shipped.name}"
    train(replace(SMALL, twin=twin, grow_from=start, teacher="zoo:edge-s-ann", updates=2), tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert training_card(run)["updates_in_all"] == shipped.card["training"]["updates_in_all"] + 2
    with pytest.raises(TrainingError, match=r"zoo:edge-x: .*no model 'edge-x'"):
        Trainer(StreamTask(SMALL), replace(SMALL, grow_from="zoo:edge-x"), ALONE)


@pytest.mark.parametrize("twin", [False, True])
def test_a_network_and_its_twin_teach_each_other(twin: bool, tmp_path: Path) -> None:
    phases = (Phase(0.5, 48, 64, (0.3, 0.5), together=3), *SMALL_STREAM.phases[1:])
    config = replace(SMALL, twin=twin, stream=replace(SMALL_STREAM, phases=phases))
    train(replace(config, twin=not twin), tmp_path / "teacher")
    train(replace(config, teacher=str(tmp_path / "teacher"), loss=Loss(lovasz=0.5)), tmp_path / "taught")
    for line in curves(tmp_path / "taught"):
        assert float(line["loss_teacher"]) > 0
        assert float(line["loss_lovasz"]) > 0


def test_a_teacher_sees_windows_shown_together_in_its_own_way(tmp_path: Path) -> None:
    train(replace(SMALL, twin=True), tmp_path)
    task = StreamTask(SMALL)
    twin, _ = load_run(tmp_path)
    task.teach_with(twin)
    seen = []
    twin.synapses["stem"].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    counts = np.arange(1, 4, dtype=np.float32)[:, None, None, None, None].repeat(2, 2).repeat(24, 3).repeat(24, 4)
    chunk = Chunk(counts, np.ones((3, 1, 12, 12), np.uint8), np.array([True]), together=True)
    task.loss(task.make_network(), chunk, 0.0)
    assert seen[0][0, 0, ::2, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("option", [{"precision": "bfloat16"}, {"optimizer": "sgd"}])
def test_other_ways_to_compute_an_update_learn_too(tmp_path: Path, option: dict[str, str]) -> None:
    train(replace(SMALL, **option), tmp_path)
    assert math.isfinite(float(curves(tmp_path)[-1]["loss_cross_entropy"]))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    # One window of one picture: the compiler unrolls time.
    stream = replace(SMALL_STREAM, phases=SMALL_STREAM.phases[:1], chunk=1, unjudged=0)
    config = replace(SMALL, updates=1, batch=1, reports=1, stream=stream)
    for compiled in (False, True):
        train(replace(config, compile=compiled), tmp_path / str(compiled))
    eager, compiled_loss = (float(curves(tmp_path / name)[0]["loss_cross_entropy"]) for name in ("False", "True"))
    assert compiled_loss == pytest.approx(eager, abs=1e-3)


ONE_UPDATE = """
import tests.models.test_train as t
from models.training.distributed import average_gradients, joined, leaders_word, same_start

with joined("cpu") as place:
    layer = t.torch.nn.Linear(1, 2, bias=False)
    t.torch.nn.init.constant_(layer.weight, float(place.rank))
    same_start(layer, place)
    layer.weight.grad = t.torch.tensor([[1.0 + place.rank], [10.0 * place.rank]])
    average_gradients(layer, place)
    told = [layer.weight.detach().flatten().tolist(), layer.weight.grad.flatten().tolist()]
    told.append(leaders_word(7.0 + place.rank, place))
    trainer = t.Trainer(t.StreamTask(t.SMALL, rank=place.rank), t.SMALL, place)
    with trainer.task.batches(0) as batches:
        trainer.update(next(iter(batches)), 0.1)
    told.append([float(p.detach().double().sum()) for p in trainer.network.parameters()])
    (t.Path(__file__).parent / f"rank{place.rank}.json").write_text(t.json.dumps(told))
"""
WHOLE_RUN = """
import tests.models.test_train as t

t.stream_task.ARCHITECTURES["edge-s"] = t.TINY
t.train(t.SMALL, t.Path(__file__).parent, device="cpu")
"""


def on_two_processes(code: str, folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(command, check=True, env=environment, timeout=120, capture_output=True)


def test_two_processes_take_the_same_step(tmp_path: Path) -> None:
    on_two_processes(ONE_UPDATE, tmp_path)
    weights, gradients, word, trained = json.loads((tmp_path / "rank0.json").read_text())
    assert (weights, gradients, word) == ([0.0, 0.0], [1.5, 5.0], 7.0)
    # Each saw sequences of its own.
    assert json.loads((tmp_path / "rank1.json").read_text()) == [weights, gradients, word, trained]


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    on_two_processes(WHOLE_RUN, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["processes"], run["updates_done"]) == (2, 4)
    assert [int(line["update"]) for line in curves(tmp_path)] == [2, 4]


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(TrainingError, match="there is no device 'cuda' here"):
        train(SMALL, tmp_path, device="cuda")


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(TrainingError, match=r"loss\.dise: Unexpected keyword argument"):
        make_config({"loss": {"dise": 1}})
    with pytest.raises(TrainingError, match="precision: Input should be 'float32' or 'bfloat16'"):
        make_config({"precision": "float8"})
    with pytest.raises(TrainingError, match="minutes must be above 0; batch and reports must be at least 1"):
        make_config({"minutes": -1, "batch": 0})
    with pytest.raises(TrainingError, match="phases must not be empty"):
        make_config({"stream": {"phases": []}})
    with pytest.raises(TrainingError, match="cannot be read"):
        read_recipe(Path("nowhere.toml"))


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_can_be_used_and_overridden(recipe: str) -> None:
    config, args = parse(["--recipe", recipe, "--twin", "--minutes", "3", "--out", "runs/x"])
    assert (config.twin, config.minutes, args.out) == (True, 3, Path("runs/x"))


def test_the_command_tells_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "SPIKESEG_DATA"}
    command = [sys.executable, "-m", "models.training.train", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: no data root: set SPIKESEG_DATA to the folder that holds the data sets"
    )
    assert "Traceback" not in done.stderr
