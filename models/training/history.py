"""What the ANN twin sees: the last windows of each row, stacked along the channels."""

from __future__ import annotations

import torch
from torch import Tensor

HISTORY = 8
"""Windows that the ANN twin sees at once."""


class History:
    """Keeps the last ``HISTORY - 1`` windows of a stream, as the membranes do for the spiking network."""

    def __init__(self) -> None:
        self._past: Tensor | None = None

    def stack(self, x: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Add windows and give, for each, it and those before it.

        Parameters
        ----------
        x : Tensor, (T, B, 2, H, W)
        fresh : bool Tensor, (B,), optional
            Rows that begin a new sequence: what came before is forgotten.

        Returns
        -------
        Tensor, (T, B, 2 * HISTORY, H, W)
            Oldest first.
        """
        if self._past is None or self._past.shape[1:] != x.shape[1:]:
            self._past = x.new_zeros(HISTORY - 1, *x.shape[1:])
        if fresh is not None:
            self._past = self._past * (~fresh).float()[None, :, None, None, None]
        whole = torch.cat([self._past, x])
        self._past = whole[-(HISTORY - 1) :]
        return torch.cat([whole[k : k + len(x)] for k in range(HISTORY)], dim=2)
