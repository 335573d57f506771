"""States as arrays: the same bits and the same layout in memory come back, and nothing unusable does."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import StateError
from models.runtime.model import SegmentationModel
from models.runtime.state import State
from models.runtime.state_arrays import state_from_arrays, state_to_arrays
from tests.models.test_batches import SENSOR, TWIN, carried, events, protocol, streaming

sides = st.integers(0, 4)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of either dtype in either layout, with all that float32 can hold but infinities and NaN."""
    shape = draw(st.lists(sides, max_size=4))
    count = int(np.prod(shape))
    if draw(st.booleans()):
        numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
        flat = np.array(draw(st.lists(numbers, min_size=count, max_size=count)), np.float32)
    else:
        numbers = st.integers(-(2**63), 2**63 - 1)
        flat = np.array(draw(st.lists(numbers, min_size=count, max_size=count)), np.int64)
    tensor = torch.from_numpy(flat).reshape(shape)
    if tensor.ndim == 4 and draw(st.booleans()):
        laid_out = torch.empty(shape, dtype=tensor.dtype, memory_format=torch.channels_last)
        return laid_out.copy_(tensor)
    return tensor


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text("abc12", min_size=1, max_size=4), tensors(), max_size=4), st.booleans())
def test_a_state_comes_back_with_its_bits_and_its_layout(layers: dict[str, torch.Tensor], through_file: bool) -> None:
    arrays: dict[str, Any] = state_to_arrays(State(layers))
    if through_file:
        file = io.BytesIO()
        np.savez(file, **arrays)
        file.seek(0)
        with np.load(file) as stored:
            arrays = dict(stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = state_from_arrays(arrays)
    assert set(back) == set(layers)
    for name, tensor in layers.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)
        if tensor.numel():
            assert back[name].stride() == tensor.stride()


@pytest.mark.parametrize("model", [streaming(), streaming(TWIN), protocol("poisson"), protocol("history")])
def test_a_stream_goes_on_from_a_stored_state_with_the_same_bits(model: SegmentationModel) -> None:
    state = carried(model, 0, 3)
    back = state_from_arrays(state_to_arrays(state))
    one, two = (model.segment(s, events(9), SENSOR) for s in (state, back))
    assert np.array_equal(one.mask, two.mask)
    assert one.activity == two.activity
    assert all(bits(v) == bits(two.state[name]) for name, v in one.state.items())
    if model is streaming():
        assert all(v.stride() == back[name].stride() for name, v in state.items())


def test_channels_last_is_stored_without_a_copy_and_says_so() -> None:
    state = carried(streaming(), 0, 1)
    arrays = state_to_arrays(state)
    assert set(arrays) == {f"{name}@nhwc" for name in state}
    for name, v in state.items():
        array = arrays[f"{name}@nhwc"]
        assert array.shape == (1, *v.shape[2:], v.shape[1])
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        assert array.ctypes.data == v.data_ptr()


def test_memory_is_taken_over_only_from_who_owns_it() -> None:
    own = np.ones((1, 2, 3), np.float32)
    assert state_from_arrays({"v": own})["v"].data_ptr() == own.ctypes.data
    buffer = bytearray(24)
    view = np.frombuffer(buffer, np.float32)
    fixed = np.ones(6, np.float32)
    fixed.flags.writeable = False
    apart = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = state_from_arrays({"view": view, "fixed": fixed, "apart": apart, "bytes": np.frombuffer(bytes(8), int)})
    buffer[:] = b"\xff" * 24
    assert not state["view"].any()
    assert state["fixed"].data_ptr() != fixed.ctypes.data
    assert state["apart"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["apart"].is_contiguous()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v": np.zeros(3)}, "layer v is of float64, expected float32 or int64"),
        ({"v": np.zeros(3, np.dtype(">f4"))}, "layer v is of >f4"),
        ({"v": np.array(["x"])}, "layer v is of <U1"),
        ({"v": np.array([None])}, "layer v is of object"),
        ({"v@nhwc": np.zeros((2, 3, 4), np.float32)}, r"layer v has 3 axes, expected 4: \(B, h, w, C\)"),
        ({"v": np.array([0, np.nan], np.float32)}, "layer v holds values that are not finite"),
        ({"v@nhwc": np.full((1, 1, 1, 1), -np.inf, np.float32)}, "layer v holds values that are not finite"),
        ({"v": np.zeros(1, np.float32), "v@nhwc": np.zeros((1, 1, 1, 1), np.float32)}, "layer v stands twice"),
    ],
)
def test_what_no_state_can_hold_is_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(StateError, match=message):
        state_from_arrays(arrays)


def test_a_state_of_another_dtype_is_not_kept() -> None:
    with pytest.raises(StateError, match=r"layer v is of torch\.float64, which is not kept"):
        state_to_arrays(State({"v": torch.zeros(2, dtype=torch.float64)}))
