"""What a window is answered with: the encoded mask and the metadata that goes with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.classes import SegmentationClass
from models.filters import REASONS
from service.streaming.windowing import Window
from service.wire.masks import Mask, MaskEncoding, encode_coco_rle, encode_mask

if TYPE_CHECKING:
    from models.runtime.activity import SpikeActivity
    from service.streaming.scheduler import TimedSegmentation

COCO_RLE: Literal["coco-rle"] = "coco-rle"
_METADATA_BYTES = 8192


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How a client wants its answers.

    Attributes
    ----------
    mask : MaskEncoding or "coco-rle"
        COCO run lengths stand in the metadata; the answer's ``mask`` is then empty.
    metrics : bool
        Whether the metadata holds the network's activity.
    """

    mask: MaskEncoding | Literal["coco-rle"]
    metrics: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one window: metadata as the wire contract has it, and the encoded mask."""

    window: int
    metadata: dict[str, Any]
    mask: bytes

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return len(self.mask) + _METADATA_BYTES


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a message arrived (on ``time.perf_counter``), and how long its bytes took to decode, in seconds."""

    at: float
    decode_s: float = 0.0


def build_answer(
    window: Window | None,
    timed: TimedSegmentation,
    classes: Sequence[SegmentationClass],
    form: AnswerFormat,
    *,
    acked: int,
    arrival: Arrival,
    deadline_missed: bool = False,
) -> Answer:
    """Encode the mask of a window, or of a picture, and say what it took.

    Parameters
    ----------
    window : Window or None
        None for a picture: what is said of windows is then left out.
    timed : TimedSegmentation
    classes : sequence of SegmentationClass
    form : AnswerFormat
    acked : int
        Number of the last client message whose effect is kept.
    arrival : Arrival
        Of the message that closed the window.
    deadline_missed : bool
        Whether the window's computation began after its deadline.
    """
    mask = timed.segmentation.mask
    begun = time.perf_counter()
    about_mask: dict[str, Any] = {"encoding": str(form.mask), "width": mask.shape[1], "height": mask.shape[0]}
    if form.mask == COCO_RLE:
        encoded = b""
        about_mask["rles"] = encode_coco_rle(mask, [c.id for c in classes])
    else:
        encoded = encode_mask(mask, form.mask, classes)
        about_mask["bytes"] = len(encoded)
    shares = class_shares(mask, classes)
    done = time.perf_counter()
    metadata = {**(_about(window) if window is not None else {}), "mask": about_mask}
    if form.metrics:
        metadata["activity"] = activity_json(timed.segmentation.activity)
    metadata["latency_ms"] = {
        "decode": _ms(arrival.decode_s),
        "wait": _ms(timed.wait_s),
        "compute": _ms(timed.compute_s),
        "encode": _ms(done - begun),
        "total": _ms(done - arrival.at),
    }
    metadata["deadline_missed"] = deadline_missed
    metadata["batch"] = timed.rows
    metadata["class_share"] = shares
    metadata["acked"] = acked
    return Answer(window.index if window is not None else 0, metadata, encoded)


def _about(window: Window) -> dict[str, Any]:
    return {
        "window": window.index,
        "t_start": window.t_start,
        "t_end": window.t_end,
        "events": len(window.events),
        "windows": window.count,
        "skipped": {
            "gap": window.gap,
            "dropped": window.dropped,
            "late_events": window.late,
            "restart": window.restart,
            **({"filtered": dict(zip(REASONS, window.filtered, strict=True))} if window.filtered else {}),
        },
    }


def class_shares(mask: Mask, classes: Sequence[SegmentationClass]) -> list[float]:
    """Share of the mask's pixels that each class has, in the order of ``classes``."""
    return [round(int(np.count_nonzero(mask == c.id)) / mask.size, 6) for c in classes]


def activity_json(activity: SpikeActivity) -> dict[str, Any]:
    """A network's activity in one window, as the wire contract has it."""
    return {
        "layers": [
            {
                "name": layer.name,
                "neurons": layer.neurons,
                "spikes": layer.spikes,
                "firing_rate": layer.firing_rate,
                "sops": layer.sops,
            }
            for layer in activity.layers
        ],
        "firing_rate": activity.firing_rate,
        "sops": activity.sops,
        "macs_ann": activity.macs_ann,
        "energy_estimate_j": {"snn": activity.energy_snn_j, "ann": activity.energy_ann_j},
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
