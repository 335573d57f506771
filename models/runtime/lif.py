"""One time step of leaky integrate-and-fire neurons: membranes in, spikes and membranes out."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLD = 1.0


def lif_step(current: Tensor, v: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Leak, integrate, fire, and reset by subtraction.

        h = keep · v + current;   s = 1 if h ≥ θ else 0;   v' = h − θ · s,   θ = 1

    This is SpikingJelly's ``ParametricLIFNode(decay_input=False, v_reset=None)`` with ``keep = 1 − sigmoid(w)``.

    Parameters
    ----------
    current : Tensor, (B, C, h, w)
        Synaptic input. It is used up: its memory becomes the new membranes'.
    v : Tensor, (B, C, h, w)
        Membrane potentials; left as they are.
    keep : Tensor, (C, 1, 1)
        Share of the potential that outlives a step.

    Returns
    -------
    spikes, v : Tensor, (B, C, h, w)
        Spikes are 0.0 or 1.0.
    """
    h = current.addcmul_(v, keep)
    # Written as numbers at once: a boolean mask and its conversion would be two more passes over memory.
    spikes = torch.ge(h, THRESHOLD, out=torch.empty_like(h))
    return spikes, h.sub_(spikes)


def leaky_readout_step(current: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Leak and integrate without firing: ``v' = keep · v + current``."""
    return current.addcmul_(v, keep)
