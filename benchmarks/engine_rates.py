"""What the kernel's design rests on: how often neurons fire at worst and in silence, and how far backends are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models import zoo
from models.architectures.edge import READOUT
from models.encoding import polarity_counts
from models.events import EventBatch, SensorSize

FLOOD = 10
"""Events for each pixel in every window, at random places: far more than any scene."""


def extreme_rates(name: str, sensor: SensorSize, windows: int = 20) -> dict[str, dict[str, float]]:
    """Firing rate of each layer in the last of some windows without events, and of some with a flood of them."""
    model = zoo.load(name)
    rng = np.random.default_rng(0)
    rates = {}
    for what, each in (("silence", 0), ("flood", FLOOD * sensor.width * sensor.height)):
        state = model.initial_state(sensor)
        for _ in range(windows):
            answer = model.segment(state, _random_events(rng, each, sensor), sensor)
            state = answer.state
        rates[what] = {x.name: round(x.firing_rate, 4) for x in answer.activity.layers if x.neurons}
    return rates


def _random_events(rng: np.random.Generator, count: int, sensor: SensorSize) -> EventBatch:
    return EventBatch(
        np.zeros(count, np.int64),
        rng.integers(0, sensor.width, count, np.uint16),
        rng.integers(0, sensor.height, count, np.uint16),
        rng.integers(0, 2, count, np.uint8),
    )


def apart(name: str, windows: Sequence[EventBatch], sensor: SensorSize) -> dict[str, int]:
    """Neurons that fire in one window on one backend alone, each window begun from the same state."""
    kernel, reference = (zoo.load(name, backend=b).runtime for b in ("event-driven", "torch"))
    grid = zoo.load(name).grid(sensor)
    state = reference.initial_state(1, grid.height, grid.width)
    steps = flips = touched = 0
    for events in windows:
        x = torch.from_numpy(polarity_counts(events, grid, reference.config.count_clip))[None]
        ours, expected = kernel.step(state, x), reference.step(state, x)
        # A neuron that fires is reset by 1.
        found = sum(int(((ours.state[n] - v).abs() > 0.5).sum()) for n, v in expected.state.items() if n != READOUT)
        flips, touched = flips + found, touched + bool(found)
        steps += sum(v.numel() for n, v in expected.state.items() if n != READOUT)
        state = expected.state
    return {"neuron_steps": steps, "neurons": flips, "windows": touched}


def print_rates(name: str, rates: Mapping[str, Mapping[str, float]]) -> None:
    """One line for silence and one for a flood."""
    for what, layers in rates.items():
        busiest = max(layers, key=lambda layer: layers[layer])
        told = ", ".join(f"{layer} {rate:.1%}" for layer, rate in layers.items())
        print(f"{name}, {what}: at most {layers[busiest]:.1%} of a layer's neurons fire ({told})", flush=True)


def print_apart(name: str, found: Mapping[str, Any]) -> None:
    """One line."""
    print(
        f"{name}: {found['neurons']} of {found['neuron_steps']} neuron steps fire on one backend alone, "
        f"in {found['windows']} windows",
        flush=True,
    )
