"""Weights of fewer bits: what they are rounded to, and which network that makes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import zoo
from models.runtime.precision import LARGEST, PRECISIONS, Precision, from_int8, rounded, to_int8


@st.composite
def convolutions(draw: st.DrawFn) -> Tensor:
    shape = [draw(st.integers(1, 5)) for _ in range(4)]
    seed, size = draw(st.integers(0, 1000)), draw(st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e6]))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


@given(convolutions(), st.integers(0, 3))
def test_int8_is_within_half_a_step_of_each_weight_and_keeps_the_largest(weight: Tensor, axis: int) -> None:
    steps, scale = to_int8(weight, axis)
    assert steps.dtype == torch.int8
    assert int(steps.abs().max()) <= LARGEST
    back = from_int8(steps, scale, axis).movedim(axis, 0).flatten(1)
    given = weight.movedim(axis, 0).flatten(1)
    assert bool(((back - given).abs() <= 0.5001 * scale[:, None]).all())
    torch.testing.assert_close(back.abs().amax(1), given.abs().amax(1), rtol=1e-6, atol=0.0)


@given(convolutions())
def test_what_has_been_rounded_to_int8_is_not_rounded_further(weight: Tensor) -> None:
    steps, scale = to_int8(weight)
    assert torch.equal(to_int8(from_int8(steps, scale))[0], steps)


@given(convolutions())
def test_bfloat16_has_eight_bits_of_mantissa(weight: Tensor) -> None:
    found = rounded({"a.weight": weight}, "bfloat16")["a.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found.to(torch.bfloat16).to(torch.float32), found)
    torch.testing.assert_close(found, weight, rtol=2**-8, atol=0.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_biases_and_leaks_stay_as_they_are(precision: Precision) -> None:
    weights = {"a.bias": torch.tensor([0.1234567]), "a.keep": torch.tensor([0.7654321])}
    assert rounded(weights, precision) == weights


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["edge-s", "edge-s-ann"])
def test_a_network_says_what_its_weights_are_rounded_to(name: str, precision: Precision) -> None:
    model = zoo.load(name, backend="torch", precision=precision)
    assert model.precision == zoo.describe(name, backend="torch", precision=precision).precision == precision
    expected = rounded(zoo.load(name, backend="torch").runtime.weights, precision)
    assert all(torch.equal(w, expected[key]) for key, w in model.runtime.weights.items())


def test_with_other_weights_it_is_another_network() -> None:
    fingerprints = [zoo.fingerprint("edge-s", precision=precision) for precision in PRECISIONS]
    assert len(set(fingerprints)) == len(PRECISIONS)
    assert fingerprints[0] == zoo.fingerprint("edge-s")
    assert zoo.load("edge-s", precision="int8").fingerprint == zoo.fingerprint("edge-s", precision="int8")


def test_the_papers_networks_are_kept_in_int8_and_stay_as_they_are() -> None:
    model = zoo.load_events("paper-deeplab", precision="bfloat16")
    assert model.precision == zoo.describe("paper-deeplab").precision == "int8"
    assert model.fingerprint == zoo.fingerprint("paper-deeplab", precision="int8") == zoo.fingerprint("paper-deeplab")
