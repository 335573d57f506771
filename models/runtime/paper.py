"""The paper's protocol: T steps from rest for each answer, as a pure function of an explicit state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.architectures.paper import KEEP, LAYERS, SCORE, PaperDeepLab
from models.errors import StateError
from models.runtime.state import State


@dataclass(frozen=True, slots=True)
class ProtocolStep:
    """What one of the T steps gives: the state after it, and each layer's spikes, (B,) int64."""

    state: State
    spike_counts: Mapping[str, Tensor]


class PaperRuntime:
    """A paper network in evaluation mode. Membranes are not kept in it."""

    def __init__(self, network: PaperDeepLab) -> None:
        self.network = network.eval()

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Membranes at rest and an empty score, for an input of height x width."""
        membranes = {}
        h, w = height, width
        for layer in LAYERS:
            membranes[layer.name] = torch.zeros(batch, layer.channels, h, w)
            if layer.pooled:
                h, w = -(-h // 2), -(-w // 2)
        membranes[SCORE] = torch.zeros(batch, self.network.config.classes, h, w)
        return State(membranes)

    @torch.inference_mode()
    def step(self, state: State, x: Tensor, step: int) -> ProtocolStep:
        """Advance time step ``step`` of 0 … T − 1 with input (B, C, H, W).

        Raises
        ------
        StateError
            If ``step`` is beyond T: the network has no batch norm for it.
        """
        if not 0 <= step < self.network.config.steps:
            raise StateError(f"time step {step} is outside 0 … {self.network.config.steps - 1}: start from rest again")
        membranes: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}

        def fire(name: str, current: Tensor) -> Tensor:
            h = current.addcmul_(state[name], torch.tensor(KEEP))
            spikes = (h > 1.0).to(h.dtype)
            membranes[name] = h.sub_(spikes)
            counts[name] = spikes.sum(dim=(1, 2, 3)).to(torch.int64)
            return spikes

        score = self.network.one_step(x, step, fire)
        membranes[SCORE] = state[SCORE] + score
        return ProtocolStep(State(membranes), counts)

    def logits(self, state: State, height: int, width: int) -> Tensor:
        """Logits (B, classes, height, width) after all T steps."""
        total = state[SCORE] / self.network.config.steps
        return F.interpolate(total, size=(height, width), mode="bilinear", align_corners=True)
