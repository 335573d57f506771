"""Input coding: cells, normalisations, and what each of the codes shows a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.coding import (
    InputCoding,
    cells_64,
    direct_code,
    frame_input,
    history_code,
    normalise_columns,
    normalise_counts,
    poisson_code,
    window_generator,
)
from models.errors import EncodingError
from models.events import EventBatch, SensorSize

DAVIS = SensorSize(346, 260)


def events_at(*rows: tuple[int, int, int]) -> EventBatch:
    x, y, p = np.array(rows, np.int64).reshape(-1, 3).T
    return EventBatch(np.zeros(len(x), np.int64), x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))


def test_cells_count_off_and_on_events() -> None:
    # 346 · k / 64 is 5.4 k: pixel 5 is the last of cell 0 and pixel 6 the first of cell 1; 260 · k / 64 is 4.06 k.
    counts = cells_64(events_at((0, 0, 0), (5, 4, 0), (6, 4, 0), (5, 5, 1), (345, 259, 1), (345, 259, 1)), DAVIS)
    assert counts.shape == (2, 64, 64)
    assert counts.dtype == np.float32
    assert {tuple(index): counts[tuple(index)] for index in np.argwhere(counts).tolist()} == {
        (0, 0, 0): 2,
        (0, 0, 1): 1,
        (1, 1, 0): 1,
        (1, 63, 63): 2,
    }
    assert not cells_64(EventBatch.empty(), DAVIS).any()


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_no_event_is_lost_and_cells_stay_in_order(width: int, height: int, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, p = rng.integers(0, width, 50), rng.integers(0, height, 50), rng.integers(0, 2, 50)
    counts = cells_64(events_at(*zip(x, y, p, strict=True)), SensorSize(width, height), rows, columns)
    assert counts.shape == (2, rows, columns)
    assert counts.sum() == 50
    assert counts[1].sum() == p.sum()
    one = cells_64(events_at((int(x[0]), int(y[0]), 1)), SensorSize(width, height), rows, columns)
    assert np.argwhere(one).tolist() == [[1, y[0] * rows // height, x[0] * columns // width]]


def test_events_outside_the_sensor_are_refused() -> None:
    with pytest.raises(EncodingError, match="outside the 346x260 sensor"):
        cells_64(events_at((346, 0, 1)), DAVIS)


def test_columns_are_scaled_each_for_itself() -> None:
    x = torch.tensor([[[0.0, 0.0, 4.0], [2.0, 0.0, 2.0], [1.0, 0.0, 3.0]], [[0.0, 1.0, 9.0]] * 3])
    expected = [[[-0.5, -0.5, 0.5], [0.5, -0.5, -0.5], [0.0, -0.5, 0.0]], [[-0.5] * 3] * 3]
    assert normalise_columns(x).tolist() == expected
    # Rows of a batch do not see each other.
    assert normalise_columns(torch.stack([x, 7 * x])).tolist() == [expected, expected]


def test_counts_are_clipped_and_zero_stays_zero() -> None:
    assert normalise_counts(torch.tensor([[0.0, 1.0, 4.0, 9.0]]), 4).tolist() == [[0, 0.25, 1, 1]]


def test_poisson_spikes_come_at_the_rate_of_the_value() -> None:
    values = torch.tensor([-1.0, -0.5, -0.1, 0.0, 0.2, 0.5, 1.0, 1.5])
    steps = 40_000
    spikes = poisson_code(values, steps, torch.Generator().manual_seed(3))
    assert spikes.shape == (steps, 8)
    assert set(spikes.unique().tolist()) == {-1, 0, 1}
    # Five standard deviations of a rate at worst: 5 · sqrt(0.25 / 40000).
    torch.testing.assert_close(spikes.mean(0), values.clamp(-1, 1), atol=0.0125, rtol=0)
    assert (spikes[:, 0] == -1).all()
    assert (spikes[:, 3] == 0).all()
    assert (spikes[:, 6:] == 1).all()
    # Steps are drawn anew: two neighbours agree as often as chance has it.
    agree = (spikes[1:, 5] == spikes[:-1, 5]).float().mean()
    assert float(agree) == pytest.approx(0.5, abs=0.0125)


def test_a_silent_window_is_half_ones_by_columns_and_silent_by_counts() -> None:
    silent = torch.zeros(2, 64, 64)
    columns = poisson_code(InputCoding(normalisation="column").normalise(silent), 20, window_generator(0, 0))
    assert float((columns == -1).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert not (columns == 1).any()
    counts = poisson_code(InputCoding(normalisation="count").normalise(silent), 20, window_generator(0, 0))
    assert not counts.any()


def test_poisson_is_the_same_for_the_same_seed_and_window_and_another_for_others() -> None:
    x = torch.full((2, 8, 8), 0.5)
    first = poisson_code(x, 5, window_generator(7, 3))
    assert torch.equal(first, poisson_code(x, 5, window_generator(7, 3)))
    assert not torch.equal(first, poisson_code(x, 5, window_generator(7, 4)))
    assert not torch.equal(first, poisson_code(x, 5, window_generator(8, 3)))


def test_direct_and_history_codes() -> None:
    x = torch.arange(12.0).reshape(2, 2, 3)
    assert torch.equal(direct_code(x, 3), torch.stack([x, x, x]))
    assert torch.equal(history_code([x, 2 * x]), torch.stack([x, 2 * x]))


def test_frames_are_resized_and_centred() -> None:
    red = np.zeros((30, 40, 3), np.uint8)
    red[..., 0] = 255
    x = frame_input(red)
    assert x.shape == (3, 64, 64)
    assert x.dtype == torch.float32
    expected = torch.tensor([(255 - 122.67892) / 255, -116.66877 / 255, -104.00699 / 255])
    torch.testing.assert_close(x, expected[:, None, None].expand(3, 64, 64))
    same = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    back = frame_input(same, 8, 8) * 255 + torch.tensor([122.67892, 116.66877, 104.00699])[:, None, None]
    assert np.array_equal(back.permute(1, 2, 0).round().numpy(), same)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncodingError, match="must be uint8 of shape"):
        frame_input(np.zeros(shape, np.uint8))
    with pytest.raises(EncodingError, match="float64"):
        frame_input(np.zeros((8, 8, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "rate"}, "code is 'rate'"),
        ({"source": "sound"}, "source is 'sound'"),
        ({"normalisation": "row"}, "normalisation is 'row'"),
        ({"height": 0}, "height"),
        ({"seed": -1}, "seed"),
        ({"source": "frames", "code": "history"}, "no history"),
    ],
)
def test_a_coding_that_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputCoding(**fields)  # type: ignore[arg-type]
