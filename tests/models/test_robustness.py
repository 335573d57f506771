"""Robustness: both networks on the same events, the gradient sign method by hand, and the commands' files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab, fold_batch_norm
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import UNLABELLED
from models.coding import FRAME_MEAN, InputCoding
from models.datasets import voc2012
from models.datasets.voc2012 import Picture
from models.errors import DatasetNotFoundError
from models.runtime.paper import PaperRuntime
from models.runtime.protocol import FrameModel
from models.training import frame_robustness, robustness
from models.training.adversarial import PaperFrames, fgsm, frame_network
from models.training.evaluate import WINDOW_US, LabelledWindow
from models.training.history import HISTORY

TINY = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, pyramid_rates=(1, 2))
SIDE = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more threads, and on a busy machine they lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_zoo(tmp_path: Path) -> Path:
    """Networks ``tiny`` and ``tiny-ann`` with random weights."""
    torch.manual_seed(0)
    for name, config in (("tiny", TINY), ("tiny-ann", replace(TINY, spiking=False, input_channels=2 * HISTORY))):
        zoo.save(name, config, fold_batch_norm(EdgeDeepLab(config).eval()), {"window_us": WINDOW_US}, tmp_path)
    return tmp_path


@pytest.fixture
def voc_tree(tmp_path: Path) -> Path:
    """A data root with a VOC2012 ``val`` of a few random pictures."""
    base = tmp_path / "voc2012" / "val"
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (base / folder).mkdir(parents=True)
    for k in range(5):
        labels = cv2.resize(rng.choice(np.array([0, 8, 12, 255], np.uint8), (3, 4)), (40, 30), interpolation=0)
        cv2.imwrite(str(base / "SegmentationClassAug" / f"2007_{k}.png"), labels)
        rgb = np.stack([labels, 255 - labels, np.full_like(labels, 10 * k)], -1)
        cv2.imwrite(str(base / "JPEGImages" / f"2007_{k}.jpg"), rgb[..., ::-1])
    return tmp_path


class SmallFrameNetwork(nn.Module):
    """One convolution to 21 classes; as a spiking network it sees the same picture for three steps."""

    def __init__(self, spiking: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.score = nn.Conv2d(8, 21, 1)
        self.node: nn.Module = neuron.IFNode(v_reset=None, detach_reset=True) if spiking else nn.ReLU()
        self.steps = 3 if spiking else 1

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self)
        answers = [self.score(self.node(3 * self.conv(x))) for _ in range(self.steps)]
        return torch.stack(answers).mean(0)


def pictures(n: int) -> list[Picture]:
    rng = np.random.default_rng(1)
    return [
        Picture(
            "noise",
            rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
            rng.integers(0, 21, (SIDE, SIDE), dtype=np.uint8),
        )
        for _ in range(n)
    ]


def test_both_networks_see_the_same_perturbed_events(
    data_tree: Path, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Sequence[LabelledWindow]]] = []

    def listen(model: Any, windows: Sequence[LabelledWindow]) -> dict[str, Any]:
        seen.append((model.name, windows))
        return {"miou": 0.5, "firing_rate": 0.1, "class_iou": {}}

    monkeypatch.setattr(robustness, "evaluate_model", listen)
    result = robustness.report("tiny", "tiny-ann", frames=1, root=data_tree, folder=tiny_zoo)
    assert result["windows"] == 2
    assert [name for name, _ in seen] == ["tiny", "tiny-ann"] * (len(seen) // 2)
    for (_, first), (_, second) in zip(seen[::2], seen[1::2], strict=True):
        assert first is second
    # The unperturbed drive is scored once, each other strength once.
    assert len(seen) // 2 == 1 + sum(len(p.strengths) - 1 for p in robustness.PERTURBATIONS)
    assert result["perturbations"][0]["points"][0]["ann"] == {"miou": 0.5, "class_iou": {}}


def test_perturbations_do_to_the_events_what_they_say(data_tree: Path, tiny_zoo: Path) -> None:
    result = robustness.report("tiny", None, frames=1, seed=4, root=data_tree, folder=tiny_zoo)
    events = {
        p["name"]: {point["strength"]: point["events_per_window"] for point in p["points"]}
        for p in result["perturbations"]
    }
    (nominal,) = {events[p.name][p.nominal] for p in robustness.PERTURBATIONS}
    assert events["background_noise"][10] - nominal == pytest.approx(10 * 346 * 260 * WINDOW_US * 1e-6, rel=0.05)
    assert events["dropped_events"][0.5] == pytest.approx(nominal / 2, rel=0.05)
    assert set(events["polarity_flips"].values()) == {nominal}
    assert events["hot_pixels"][0.02] > events["hot_pixels"][0.002] > nominal
    assert events["contrast_threshold"][0.5] > nominal > events["contrast_threshold"][2]
    assert events["refractory_period"][30] < nominal
    assert len({str(p["points"]) for p in result["perturbations"]}) == len(robustness.PERTURBATIONS)
    assert all(0 <= point["snn"]["firing_rate"] <= 1 for p in result["perturbations"] for point in p["points"])


def test_every_perturbation_has_its_nominal_strength_and_rises() -> None:
    for p in robustness.PERTURBATIONS:
        assert p.nominal in p.strengths
        assert list(p.strengths) == sorted(set(p.strengths))


def test_the_gradient_sign_by_hand() -> None:
    """Logits (w·x, 0) for a target of class 0: the loss falls with w·x, so the attack goes against w."""
    w = torch.tensor([0.5, -2.0, 0.0])

    def forward(x: Tensor) -> Tensor:
        score = (x * w[:, None, None]).sum(1, keepdim=True)
        return torch.cat([score, torch.zeros_like(score)], 1)

    x = torch.full((1, 3, 2, 2), 0.5)
    x[0, 0] = 0.05
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 1, 1] = UNLABELLED
    attacked = fgsm(forward, x, target, 0.1)
    # Clipped at 0, moved by epsilon, and left alone where no gradient comes from.
    np.testing.assert_allclose(attacked[0, :, 0, 0], [0.0, 0.6, 0.5])
    torch.testing.assert_close(attacked[0, :, 1, 1], x[0, :, 1, 1])
    torch.testing.assert_close(fgsm(forward, x, target, 0.0), x)
    assert not attacked.requires_grad


@pytest.mark.parametrize("spiking", [True, False])
def test_an_attack_raises_the_loss_of_spiking_and_analog_frame_networks(spiking: bool) -> None:
    network = SmallFrameNetwork(spiking)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    target = torch.randint(0, 21, (4, SIDE, SIDE), generator=generator)
    before = x.clone()

    def loss(inputs: Tensor) -> float:
        with torch.no_grad():
            logits = F.interpolate(network.forward(inputs), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            return float(F.cross_entropy(logits, target))

    attacked = fgsm(network.forward, x, target, 0.05)
    assert torch.equal(x, before)
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    assert float((attacked - x).abs().max()) == pytest.approx(0.05, abs=1e-6)
    assert loss(attacked) > loss(x)
    assert all(p.grad is None for p in network.parameters())


def test_event_counts_can_be_attacked_through_surrogate_gradients() -> None:
    torch.manual_seed(0)
    network = EdgeDeepLab(TINY).train()
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 3, (4, 1, 2, 24, 32), generator=generator).float()
    target = torch.randint(0, 6, (1, 24, 32), generator=generator)

    def last_window(counts: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(counts)[-1]  # type: ignore[no-any-return]

    attacked = fgsm(last_window, x, target, 1.0, highest=4.0)
    assert attacked.shape == x.shape
    assert set(attacked.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    # The last answer hangs on the windows before it.
    assert (attacked[0] != x[0]).any()


def test_voc_pictures_are_square_rgb_with_their_labels(voc_tree: Path) -> None:
    two = frame_robustness.voc_pictures(2, 24, voc_tree)
    assert len(two) == 2
    assert len(frame_robustness.voc_pictures(100, 24, voc_tree)) == 5
    assert all(p.rgb.shape == (24, 24, 3) and p.labels.shape == (24, 24) for p in two)
    assert set(np.unique(two[1].labels)) <= {0, 8, 12, 255}
    np.testing.assert_allclose(two[1].rgb[..., 2].mean(), 40, atol=6)


def test_missing_voc_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="VOC 2012 not found"):
        frame_robustness.voc_pictures(2, 24, tmp_path)


def test_frame_networks_are_compared_on_the_same_pictures() -> None:
    some = pictures(10)
    results = frame_robustness.frame_sweep(SmallFrameNetwork(True), SmallFrameNetwork(False), some, seed=0)
    assert [r["name"] for r in results] == ["gaussian_noise", "salt_and_pepper", "brightness", "fgsm"]
    for key in ("snn", "ann"):
        unperturbed = {p[key]["miou"] for r in results for p in r["points"] if p["strength"] == r["nominal"]}
        assert len(unperturbed) == 1
    assert results == frame_robustness.frame_sweep(SmallFrameNetwork(True), SmallFrameNetwork(False), some, seed=0)
    alone = frame_robustness.frame_sweep(SmallFrameNetwork(True), None, some[:1], seed=0)
    assert all(p["ann"] is None for r in alone for p in r["points"])


def test_frames_are_scored_over_whole_batches() -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(torch.full((len(x), 4, 4), 2), 21).permute(0, 3, 1, 2).float()

    truth = np.full((SIDE, SIDE), 2, np.uint8)
    truth[0] = UNLABELLED
    truth[1] = 5
    some = [Picture("black", np.zeros((SIDE, SIDE, 3), np.uint8), truth)] * (frame_robustness.BATCH + 1)
    assert frame_robustness.frame_miou(Always(), some) == pytest.approx((14 / 15 + 0) / 2)


def paper_network(kind: str, spiking: bool) -> PaperNetwork:
    """A paper network whose norms all differ from their defaults, and make every layer fire."""
    torch.manual_seed(0)
    network = PaperNetwork(PaperConfig(kind=kind, classes=21, input_channels=3, steps=3, spiking=spiking)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 4.0)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.3, 1.5)
    return network


@pytest.mark.parametrize(
    ("kind", "spiking", "code"), [("deeplab", True, "poisson"), ("fcn", True, "direct"), ("deeplab", False, "direct")]
)
def test_a_paper_network_answers_frames_as_it_is_served(kind: str, spiking: bool, code: str) -> None:
    network = paper_network(kind, spiking)
    coding = InputCoding(source="frames", code=code, height=SIDE, width=SIDE)
    served = FrameModel("paper", PaperRuntime(network.config, fold_bntt(network)), coding, voc2012.CLASSES, {})
    frames = frame_network(served)
    some = pictures(2)
    x = torch.from_numpy(np.stack([p.rgb for p in some])).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        answers = frames.forward(x).argmax(1)
    for picture, answer in zip(some, answers, strict=True):
        assert (served.segment_frame(picture.rgb).mask == answer.numpy()).mean() > 0.97
    target = torch.from_numpy(np.stack([p.labels for p in some])).long()
    assert (fgsm(frames.forward, x, target, 0.05) != x).float().mean() > 0.5


def test_the_attack_is_by_the_gradients_of_training() -> None:
    network = paper_network("deeplab", True)
    coding = InputCoding(source="frames", code="direct", height=SIDE, width=SIDE)
    frames = PaperFrames(network.config, fold_bntt(network), coding)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    gradients = []
    for direct in (False, True):
        attacked = x.clone().requires_grad_()
        if direct:
            functional.reset_net(network)
            shown = attacked - torch.tensor(FRAME_MEAN)[:, None, None] / 255
            logits = network(shown.expand(3, *shown.shape))
        else:
            logits = frames.forward(attacked)
        gradients.append(torch.autograd.grad(logits.square().sum(), attacked)[0])
    assert gradients[1].any()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_the_command_writes_report_and_picture(
    data_tree: Path, voc_tree: Path, tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, picture = tmp_path / "new" / "robustness.json", tmp_path / "other" / "robustness.png"
    load, load_events, load_voc = zoo.load, zoo.load_events, frame_robustness.voc_pictures
    monkeypatch.setattr(robustness.zoo, "load", lambda name, *_, **how: load(name, tiny_zoo, **how))
    monkeypatch.setattr(robustness.zoo, "load_events", lambda name, *_: load_events(name, tiny_zoo))
    monkeypatch.setattr(frame_robustness, "voc_pictures", lambda count, side, _: load_voc(count, side, voc_tree))
    monkeypatch.setattr(robustness, "PERTURBATIONS", robustness.PERTURBATIONS[:2])
    for name, spiking in (("frames", True), ("frames-ann", False)):
        network = paper_network("deeplab", spiking)
        coding = InputCoding(source="frames", code="direct", height=SIDE, width=SIDE)
        zoo.save_paper(name, network.config, coding, fold_bntt(network), voc2012.CLASSES, {}, tiny_zoo)
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    options = f"--model tiny --twin tiny-ann --frames 1 --frame-model frames --frame-twin frames-ann --pictures 2 \
        --out {out} --plot {picture}"
    monkeypatch.setattr("sys.argv", ["robustness", *options.split()])
    robustness.main()
    result = json.loads(out.read_text())
    assert result["command"].startswith("python -m models.training.robustness --model tiny --twin tiny-ann")
    assert {"machine", "data", "seed", "windows", "models"} <= set(result)
    assert result["frames"]["pictures"] == 2
    assert len(result["perturbations"]) == 2
    image = cv2.imread(str(picture))
    assert image is not None
    # Six panels in two rows; lines of two colours are drawn.
    assert image.shape[1] > image.shape[0] > 400
    flat = image.reshape(-1, 3)[:, ::-1]
    for color in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):
        assert (flat == color).all(1).sum() > 200
