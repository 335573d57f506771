"""The streaming network as a pure step, computed where spikes are: the contract and state of ``EdgeRuntime``.

Its spikes are those of the reference, its membranes within 1e-5 of it: sums are taken in another order, so that a
neuron whose potential comes within rounding of the threshold may fire in one and not in the other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.architectures.edge import READOUT, EdgeConfig
from models.encoding import InputGrid
from models.errors import BackendUnavailableError, EncodingError
from models.events import EventBatch
from models.runtime.edge import EdgeRuntime, RowResult, StepResult
from models.runtime.event_driven.layout import channels_last, empty
from models.runtime.event_driven.library import kernel
from models.runtime.event_driven.plan import ABI, INPUT, SLOT, PackedNetwork, Plan, supports
from models.runtime.precision import Precision
from models.runtime.state import State


class EventDrivenRuntime(EdgeRuntime):
    """A streaming Spiking-DeepLab with folded weights, whose work grows with its spikes. CPU only.

    Answers have the same bits on any number of threads and in any batch. It computes on as many threads as torch would
    (``torch.get_num_threads()`` of the calling thread).

    Parameters
    ----------
    config : EdgeConfig
    weights : mapping of Tensor
        As ``models.architectures.edge.fold_batch_norm`` gives them.
    precision : "float32", "bfloat16" or "int8"
        What the weights are rounded to (``models.runtime.precision``). int8 is kept and added up as such behind the
        first layer, which multiplies; bfloat16 is kept as float32.

    Raises
    ------
    WeightsError
        If a weight is missing, of another shape, or not finite.
    BackendUnavailableError
        If the kernel cannot be built here, or cannot run such a network.
    """

    backend = "event-driven"
    fixed_order = True

    def __init__(self, config: EdgeConfig, weights: Mapping[str, Tensor], precision: Precision = "float32") -> None:
        super().__init__(config, weights, precision)
        if not supports(config):
            raise BackendUnavailableError("the event-driven kernel runs spiking edge networks only")
        self._kernel = kernel()
        if self._kernel.sizes != ABI:
            raise BackendUnavailableError(f"{self._kernel.path} was built from another version of its source")
        self.network = PackedNetwork(config, weights, precision)

    @torch.inference_mode()
    def step(self, state: State, x: Tensor) -> StepResult:
        """Advance one window; as ``EdgeRuntime.step``."""
        batch, channels, height, width = x.shape
        self.check(state, batch, height, width)
        plan = self.network.plan(height, width)
        counts = x.to(torch.float32).contiguous()
        cells = _Cells(plan, batch, channels)
        active = [
            self._kernel.pack_input(
                counts.data_ptr() + row * channels * height * width * 4,
                channels,
                height,
                width,
                plan.padding,
                *cells.pointers(row),
            )
            for row in range(batch)
        ]
        sources = [channels_last(state[name]) for name in plan.names]
        before = _row_pointers(sources, plan, batch)
        after = [empty(batch, shape) for shape in plan.shapes]
        spikes = self._advance(plan, cells, before, _row_pointers(after, plan, batch))
        membranes = dict(zip(plan.names, after, strict=True))
        found = {"input": torch.tensor(active, dtype=torch.int64)}
        for index, name in enumerate(plan.names):
            if name != READOUT:
                found[name] = torch.from_numpy(spikes[:, index].copy())
        return StepResult(self._logits(plan, membranes[READOUT]), State(membranes), found)

    @torch.inference_mode()
    def answer(
        self, rows: Sequence[tuple[State, EventBatch, InputGrid]], spent: dict[str, int] | None = None
    ) -> list[RowResult]:
        """Advance a window of each of several streams with the same grid; as ``EdgeRuntime.answer``.

        States are read where they are, and each new one has memory of its own. What the stages took goes to ``spent``,
        in nanoseconds: ``input`` (events to cells), each layer, ``logits``, and ``around`` for the rest: memory, tables
        and threads.
        """
        begun = time.perf_counter_ns()
        grid = rows[0][2]
        plan = self.network.plan(grid.height, grid.width)
        cells = _Cells(plan, len(rows), 2)
        active = [self._count(events, grid, cells, row) for row, (_, events, grid) in enumerate(rows)]
        counted = time.perf_counter_ns()
        layers = None if spent is None else np.zeros(len(plan.names), np.int64)
        # Kept until the step is over: a state in another layout is copied.
        sources = [[channels_last(state[name]) for name in plan.names] for state, _, _ in rows]
        before = np.array([[tensor.data_ptr() for tensor in tensors] for tensors in sources], np.uint64)
        memory = [torch.empty(plan.state_floats) for _ in rows]
        after = np.array([[tensor.data_ptr()] for tensor in memory], np.uint64) + plan.state_offsets
        spikes = self._advance(plan, cells, before, after, layers)
        stepped = time.perf_counter_ns()
        results = []
        for row, flat in enumerate(memory):
            state = State(_views(plan, flat))
            found = dict(zip(plan.names, spikes[row].tolist(), strict=True)) | {"input": active[row]}
            del found[READOUT]
            results.append(RowResult(self._logits(plan, state[READOUT]), state, found))
        if spent is not None and layers is not None:
            spent |= {"input": counted - begun, **dict(zip(plan.names, layers.tolist(), strict=True))}
            spent["logits"] = time.perf_counter_ns() - stepped
            spent["around"] = stepped - counted - int(layers.sum())
        return results

    def class_mask(self, logits: Tensor, height: int, width: int, stride: int) -> NDArray[np.uint8]:
        """Class ids of a picture, from the logits of its cells; as ``models.architectures.edge.class_mask``."""
        mask = np.empty((height, width), np.uint8)
        planes = logits.contiguous()
        classes, rows, columns = planes.shape[1:]
        if self._kernel.mask(planes.data_ptr(), classes, rows, columns, stride, height, width, mask.ctypes.data):
            raise MemoryError("no memory to make a mask in")
        return mask

    def _count(self, events: EventBatch, grid: InputGrid, cells: _Cells, row: int) -> int:
        x, y = np.ascontiguousarray(events.x, np.uint16), np.ascontiguousarray(events.y, np.uint16)
        p = np.ascontiguousarray(events.p, np.uint8)
        sensor = grid.sensor
        active = self._kernel.count_events(
            x.ctypes.data,
            y.ctypes.data,
            p.ctypes.data,
            len(events),
            grid.factor,
            sensor.height,
            sensor.width,
            grid.width,
            cells.padding,
            float(self.config.count_clip),
            *cells.pointers(row),
        )
        if active < 0:
            raise EncodingError(f"an event lies outside the {sensor} sensor")
        return int(active)

    def _advance(
        self,
        plan: Plan,
        cells: _Cells,
        before: NDArray[np.uint64],
        after: NDArray[np.uint64],
        nanoseconds: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Run all layers, from and to memory (batch, layers); gives spikes (batch, layers)."""
        batch = len(before)
        memory = np.empty((batch, plan.spike_bytes), np.uint8)
        slots = np.zeros((batch, len(plan.names)), SLOT)
        slots["before"], slots["after"] = before, after
        rows = memory.ctypes.data + np.arange(batch, dtype=np.uint64)[:, None] * np.uint64(plan.spike_bytes)
        slots["lists"], slots["starts"] = rows + plan.list_offsets, rows + plan.start_offsets
        self.run_layers(plan, slots, 0, len(plan.names), cells.inputs, nanoseconds)
        spikes: NDArray[np.int64] = slots["spikes"]
        return spikes

    def run_layers(
        self,
        plan: Plan,
        slots: NDArray[Any],
        first: int,
        end: int,
        inputs: NDArray[Any] | None = None,
        nanoseconds: NDArray[np.int64] | None = None,
    ) -> None:
        """Run the layers [first, end) over slots (batch, layers); what each one took goes to ``nanoseconds``.

        Raises
        ------
        MemoryError
            If there is no memory to list spikes in.
        """
        failed = self._kernel.step(
            plan.layers.ctypes.data,
            first,
            end,
            len(plan.names),
            slots.ctypes.data,
            None if inputs is None else inputs.ctypes.data,
            slots.size // len(plan.names),
            torch.get_num_threads(),
            None if nanoseconds is None else nanoseconds.ctypes.data,
        )
        if failed:
            raise MemoryError("no memory to step the network in")

    def _logits(self, plan: Plan, readout: Tensor) -> Tensor:
        stride, scale = self.config.output_stride, self.config.readout_scale
        height, width = -(-plan.height // stride), -(-plan.width // stride)
        batch, channels, rows, columns = readout.shape
        logits = torch.empty(batch, self.config.classes, height, width)
        for row in range(batch):
            self._kernel.shuffle(
                readout.data_ptr() + 4 * row * channels * rows * columns,
                columns,
                self.config.classes,
                scale,
                height,
                width,
                logits.data_ptr() + 4 * row * self.config.classes * height * width,
            )
        return logits


class _Cells:
    """The input of a batch: values (batch, height, width, channels) and a map of those that are not zero."""

    def __init__(self, plan: Plan, batch: int, channels: int) -> None:
        self.padding = plan.padding
        self._values = np.zeros((batch, plan.height, plan.width, channels), np.float32)
        self._active = np.zeros((batch, plan.height + 2 * plan.padding, plan.active_pitch), np.uint8)
        self._pitch = plan.active_pitch
        self.inputs = np.zeros(batch, INPUT)
        for row in range(batch):
            self.inputs[row] = self._values[row].ctypes.data, self._active[row].ctypes.data, plan.active_pitch

    def pointers(self, row: int) -> tuple[int, int, int]:
        """Values, map, and bytes of the map for each line."""
        return self._values[row].ctypes.data, self._active[row].ctypes.data, self._pitch


def _row_pointers(tensors: Sequence[Tensor], plan: Plan, batch: int) -> NDArray[np.uint64]:
    starts = np.array([tensor.data_ptr() for tensor in tensors], np.uint64)
    sizes = np.array([4 * c * h * w for c, h, w in plan.shapes], np.uint64)
    return starts + np.arange(batch, dtype=np.uint64)[:, None] * sizes


def _views(plan: Plan, flat: Tensor) -> dict[str, Tensor]:
    starts = (plan.state_offsets // np.uint64(4)).tolist()
    return {
        name: flat.as_strided((1, c, h, w), (c * h * w, 1, c * w, c), start)
        for name, (c, h, w), start in zip(plan.names, plan.shapes, starts, strict=True)
    }
