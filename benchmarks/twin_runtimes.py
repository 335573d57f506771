"""The ANN twin on runtimes made for inference: exported to ONNX, computed by ONNX Runtime and by OpenVINO, in float32.

Neither is needed otherwise: ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.contestants import MakeMask, Mask
from models.architectures.edge import READOUT
from models.encoding import polarity_counts
from models.events import EventBatch, SensorSize
from models.runtime.streaming import StreamingModel

RUNTIMES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
"""The packages that they come in."""

SLIDES = 32
"""Windows that a history has room for beyond those that the network sees, before it is moved back to its start."""


class TwinGraph(nn.Module):
    """The twin as a pure function: the last windows (B, 2 k, h, w) to logits."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self._run = model.runtime.run_graph

    def forward(self, seen: Tensor) -> Tensor:
        """Logits (B, classes, h, w)."""
        return self._run(seen, lambda name, current: current if name == READOUT else current.relu())


def export(model: StreamingModel, shape: Sequence[int], path: Path) -> None:
    """Write the twin as an ONNX file for an input of exactly that shape, which lets a runtime plan the most."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TwinGraph(model).eval(),
            (torch.zeros(*shape),),
            path,
            input_names=["seen"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )


class Runtime:
    """A network in ONNX on one of ``RUNTIMES``, with a fixed number of threads.

    Raises
    ------
    ImportError
        If it is not installed.
    """

    def __init__(self, name: str, path: Path, threads: int) -> None:
        library = importlib.import_module(RUNTIMES[name])
        if name == "ONNX Runtime":
            options = library.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            # Its threads wait busily within a run; afterwards they would do so in everybody else's time.
            options.add_session_config_entry("session.force_spinning_stop", "1")
            session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self._run: Any = lambda seen: session.run(None, {"seen": seen})[0]
        else:
            # On processors that have it, it would compute in bfloat16.
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            }
            request = library.Core().compile_model(str(path), "CPU", settings).create_infer_request()
            self._run = lambda seen: request.infer({0: seen}, share_inputs=True, share_outputs=True)[0]

    def __call__(self, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits; what the next call gives may lie in the same memory."""
        logits: NDArray[np.float32] = self._run(seen)
        return logits


class TwinOn:
    """The ANN twin on another runtime; the windows that it looks back on are kept here, and not copied to be seen."""

    def __init__(self, name: str, model: StreamingModel, sensor: SensorSize, threads: int, mask: MakeMask) -> None:
        self._grid, self._sensor, self._config, self._mask = model.grid(sensor), sensor, model.runtime.config, mask
        channels, height, width = self._config.input_channels, self._grid.height, self._grid.width
        self._past = np.zeros((channels + 2 * SLIDES, height, width), np.float32)
        self._end = channels
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "twin.onnx"
            export(model, (1, channels, height, width), path)
            self._runtime = Runtime(name, path, threads)

    def prepare(self, window: EventBatch) -> NDArray[np.float32]:
        """The last windows (1, 2 k, h, w), oldest first."""
        channels = self._config.input_channels
        if self._end == len(self._past):
            self._past[:channels] = self._past[-channels:]
            self._end = channels
        self._past[self._end : self._end + 2] = polarity_counts(window, self._grid, self._config.count_clip)
        self._end += 2
        return self._past[None, self._end - channels : self._end]

    def network(self, x: NDArray[np.float32]) -> Tensor:
        """Logits."""
        return torch.from_numpy(self._runtime(x))

    def segment(self, window: EventBatch) -> Mask:
        """The mask."""
        logits = self.network(self.prepare(window))
        stride = self._config.output_stride * self._grid.factor
        return self._mask(logits, self._sensor.height, self._sensor.width, stride)
