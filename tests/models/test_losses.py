"""Losses, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.training.losses import dice, distillation, firing_rate_penalty, lovasz, set_cross_entropy


def test_a_set_of_classes_is_judged_by_its_summed_probability() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = p.log()[None, :, None, None].expand(1, 4, 1, 3)
    labels = torch.tensor([[[0b0110, 0b1000, 0]]], dtype=torch.uint8)
    loss = set_cross_entropy(logits, labels, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # The set {1, 2} weighs as its lightest class, 2; the last pixel is unlabelled.
    assert float(loss) == pytest.approx((2 * -math.log(0.5) + 4 * -math.log(0.4)) / 6)


def test_no_label_at_all_gives_no_gradient_and_no_nan() -> None:
    logits = torch.randn(2, 6, 3, 3, requires_grad=True)
    labels = torch.zeros(2, 3, 3, dtype=torch.uint8)
    loss = set_cross_entropy(logits, labels, torch.ones(6)) + dice(logits, labels)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_is_zero_for_a_certain_and_right_answer() -> None:
    labels = torch.tensor([[[1, 2], [2, 4]]], dtype=torch.uint8)
    right = torch.full((1, 3, 2, 2), -50.0)
    for y, x, c in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        right[0, c, y, x] = 50
    assert float(dice(right, labels)) == pytest.approx(0, abs=1e-6)
    assert float(dice(-right, labels)) > 0.6


def test_only_layers_above_the_target_rate_are_penalised() -> None:
    quiet, loud = torch.tensor([0.0, 0.0, 0.0, 0.2]), torch.tensor([0.0, 0.4, 0.0, 0.4])
    assert float(firing_rate_penalty([quiet, loud], target=0.1)) == pytest.approx((0 + 1.0**2) / 2)


def test_lovasz_is_the_jaccard_loss_at_hard_answers() -> None:
    # Of three pixels of class 0 and one of class 1, one of class 0 is called 1: IoU 2/3 and 1/2.
    labels = torch.tensor([[[1, 1, 1, 2]]], dtype=torch.uint8)
    said = torch.tensor([0, 0, 1, 1])
    logits = (100.0 * torch.nn.functional.one_hot(said, 2)).T.reshape(1, 2, 1, 4)
    assert float(lovasz(logits, labels)) == pytest.approx(1 - (2 / 3 + 1 / 2) / 2, abs=1e-5)


def test_lovasz_without_labels_gives_no_gradient() -> None:
    logits = torch.randn(1, 6, 2, 2, requires_grad=True)
    lovasz(logits, torch.zeros(1, 2, 2, dtype=torch.uint8)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    teacher = torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1)
    student = torch.tensor([0.5, 0.5]).log().reshape(1, 2, 1, 1)
    assert float(distillation(student, teacher)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(distillation(teacher, teacher)) == pytest.approx(0, abs=1e-7)
