"""Trained networks: for each, a card ``NAME.json`` and its weights; the card's ``format`` says how they are kept.

``spiking-deeplab-edge-1``, of the streaming networks: ``NAME.safetensors`` with folded weights.
``paper-network-1``, of the paper's: ``NAME-00001-of-0000N.safetensors``, packed as :mod:`models.zoo.packing` does.
The card's ``files`` has the SHA-256 of each file of weights, which loading checks. A card's ``input`` is ``events``
(also where it says nothing) or ``frames``.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from models.classes import DDD17_CLASSES, SegmentationClass
from models.errors import BackendUnavailableError, UnknownModelError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from models.architectures.edge import EdgeConfig
    from models.architectures.paper import PaperConfig
    from models.coding import InputCoding, Source
    from models.runtime.edge import EdgeRuntime
    from models.runtime.model import Backend, BackendChoice, Mode
    from models.runtime.precision import Precision
    from models.runtime.protocol import FrameModel, ProtocolModel
    from models.runtime.streaming import StreamingModel

    ZooModel = StreamingModel | ProtocolModel | FrameModel

M = TypeVar("M", bound="ZooModel")

logger = logging.getLogger(__name__)

ZOO = Path(__file__).parent
FORMAT = "spiking-deeplab-edge-1"
PAPER_FORMAT = "paper-network-1"


def names(folder: Path = ZOO, *, input: Source | None = None) -> tuple[str, ...]:
    """Names of the trained networks in a folder, in alphabetical order.

    Parameters
    ----------
    folder : Path
    input : "events" or "frames", optional
        Only those that take this. A network whose card cannot be read counts as one of events.
    """
    known = sorted(path.stem for path in folder.glob("*.json"))
    return tuple(name for name in known if input is None or _input_of(folder / f"{name}.json") == input)


@overload
def load(
    name: str, folder: Path = ZOO, *, backend: BackendChoice = "auto", precision: Precision = "float32"
) -> StreamingModel: ...
@overload
def load(
    name: str,
    folder: Path = ZOO,
    *,
    expect: type[M],
    backend: BackendChoice = "auto",
    precision: Precision = "float32",
) -> M: ...
def load(
    name: str,
    folder: Path = ZOO,
    *,
    expect: type[Any] | None = None,
    backend: BackendChoice = "auto",
    precision: Precision = "float32",
) -> Any:
    """Load a trained network of a kind that is known beforehand.

    Parameters
    ----------
    name : str
    folder : Path
    expect : StreamingModel, ProtocolModel or FrameModel
        A streaming one if not given.
    backend : "auto", "torch" or "event-driven"
    precision : "float32", "bfloat16" or "int8"
        Both as of ``load_any``.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its weights or card are missing, damaged, or do not fit together, or if it is of another kind.
    """
    from models.runtime.streaming import StreamingModel

    expect = StreamingModel if expect is None else expect
    model = load_any(name, folder, backend=backend, precision=precision)
    if not isinstance(model, expect):
        raise WeightsError(f"model {name!r} is {_WHAT[type(model).__name__]}, not {_WHAT[expect.__name__]}")
    return model


_WHAT = {
    "StreamingModel": "a streaming network of events",
    "ProtocolModel": "a network of events that takes T steps from rest",
    "FrameModel": "a network of frames",
}


def load_events(
    name: str, folder: Path = ZOO, *, backend: BackendChoice = "auto", precision: Precision = "float32"
) -> StreamingModel | ProtocolModel:
    """Load a trained network of events, however it runs; ``backend`` and ``precision`` as of ``load_any``.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its weights or card are missing, damaged, or do not fit together, or if it takes frames.
    BackendUnavailableError
        If the backend that was asked for cannot run here.
    """
    from models.runtime.protocol import FrameModel

    model = load_any(name, folder, backend=backend, precision=precision)
    if isinstance(model, FrameModel):
        raise WeightsError(f"model {name!r} is {_WHAT['FrameModel']}, not of events")
    return model


def load_any(
    name: str, folder: Path = ZOO, *, backend: BackendChoice = "auto", precision: Precision = "float32"
) -> ZooModel:
    """Load a trained network of whichever kind its card says.

    Parameters
    ----------
    name : str
    folder : Path
    backend : "auto", "torch" or "event-driven"
        What computes it. ``auto`` takes the event-driven kernel for the networks that spike, where it is there or can
        be built, and torch otherwise; ``event-driven`` refuses such a network where it cannot. All others are computed
        by torch, whatever is asked for.
    precision : "float32", "bfloat16" or "int8"
        What the weights of a streaming network are rounded to. The paper's are kept in int8, and never rounded again.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its weights or card are missing, damaged, or do not fit together.
    BackendUnavailableError
        If the backend that was asked for cannot run here.
    """
    from safetensors import SafetensorError

    card = _read_card(name, folder)
    try:
        if card["format"] == PAPER_FORMAT:
            return _load_paper(name, card, folder, backend)
        return _load_edge(name, card, folder, backend, precision)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def fingerprint(
    name: str, folder: Path = ZOO, *, backend: BackendChoice = "auto", precision: Precision = "float32"
) -> str:
    """SHA-256 (hex) of a network: its card without scores and training, its weights, and what computes it.

    Where it is the same, one replica can go on from the other's state with the same bits. Backends add in another
    order, and after a few windows a rounded sum lets a neuron fire in one and not in the other; so a session stays with
    the backend, and with the precision of the weights, that it was opened with.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its card cannot be read, or a file of weights is missing or damaged.
    BackendUnavailableError
        If the backend that was asked for cannot run here.
    """
    check_weights(name, folder)
    card = _read_card(name, folder)
    try:
        backend_here = _choose_backend(_runs_on_kernel(card), backend)
        return _fingerprint(name, card, folder, backend_here, precision)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"model {name!r} cannot be read: {type(error).__name__}: {error}") from error


_NETWORK_FIELDS = ("format", "input", "config", "coding", "classes", "window_us")


def check_weights(name: str, folder: Path = ZOO) -> None:
    """Compare every file of a network's weights with the digest in its card.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If the card cannot be read or names no digests, or a file is missing or damaged; the message names it.
    """
    for path, sha256 in _weight_files(name, _read_card(name, folder), folder).items():
        _read_whole(path, sha256)


def _fingerprint(name: str, card: Mapping[str, Any], folder: Path, backend: Backend, precision: Precision) -> str:
    settings = {field: card[field] for field in _NETWORK_FIELDS if field in card} | {"backend": backend}
    # Weights that are as the files have them need no other word than the digests.
    if card["format"] != PAPER_FORMAT and precision != "float32":
        settings["precision"] = precision
    digests = list(_weight_files(name, card, folder).values())
    return hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Description:
    """What a card says of a network of events, before its weights are read; the fields are ``SegmentationModel``'s."""

    name: str
    classes: tuple[SegmentationClass, ...]
    mode: Mode
    steps: int
    longest_side: int
    window_us: int
    card: dict[str, Any]
    backend: Backend
    precision: Precision


def describe(
    name: str, folder: Path = ZOO, *, backend: BackendChoice = "auto", precision: Precision = "float32"
) -> Description:
    """Describe a trained network of events from its card, and how it is computed if it is loaded with these choices.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its card cannot be read, or a file of weights is missing.
    BackendUnavailableError
        If the backend that was asked for cannot run here.
    """
    card = _read_card(name, folder)
    try:
        paper = card["format"] == PAPER_FORMAT
        missing = [path.name for path in _weight_files(name, card, folder) if not path.is_file()]
        if missing:
            raise WeightsError(f"model {name!r}: {', '.join(missing)} is missing")
        window_us = int(card["window_us"])
        if not paper:
            chosen = _choose_backend(_runs_on_kernel(card), backend)
            side = int(card["config"]["grid"])
            return Description(name, DDD17_CLASSES, "streaming", 1, side, window_us, card, chosen, precision)
        coding, shape = card["coding"], card["config"]
        side = max(int(coding["height"]), int(coding["width"]))
        steps = int(shape["steps"]) if shape["spiking"] else 1
        chosen = _choose_backend(_runs_on_kernel(card), backend)
        return Description(name, _classes_of(card), "protocol", steps, side, window_us, card, chosen, "int8")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"model {name!r} has a damaged card: {type(error).__name__}: {error}") from error


def _read_card(name: str, folder: Path) -> dict[str, Any]:
    known = names(folder)
    if name not in known:
        raise UnknownModelError(f"no model {name!r}; there are: {', '.join(known) or 'none'}")
    try:
        card: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        if card["format"] not in (FORMAT, PAPER_FORMAT):
            reads = f"{FORMAT!r}, {PAPER_FORMAT!r}"
            raise WeightsError(f"model {name!r} has format {card['format']!r}, this version reads {reads}")
        return card
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _classes_of(card: dict[str, Any]) -> tuple[SegmentationClass, ...]:
    return tuple(SegmentationClass(int(c["id"]), str(c["name"]), tuple(c["color"])) for c in card["classes"])


def save(name: str, config: EdgeConfig, weights: dict[str, Tensor], card: dict[str, Any], folder: Path = ZOO) -> None:
    """Write a streaming network's folded weights and card; ``card`` is completed with the format and the config."""
    from safetensors.torch import save

    file = f"{name}.safetensors"
    data = save({key: value.contiguous() for key, value in weights.items()})
    (folder / file).write_bytes(data)
    about = {"name": name, "format": FORMAT, "config": asdict(config)}
    write_card(about | dict(card) | {"files": {file: hashlib.sha256(data).hexdigest()}}, folder)


def save_paper(
    name: str,
    config: PaperConfig,
    coding: InputCoding,
    weights: Mapping[str, Tensor],
    classes: Sequence[SegmentationClass],
    card: Mapping[str, Any],
    folder: Path = ZOO,
) -> None:
    """Write a paper network's packed weights and card.

    Parameters
    ----------
    name : str
    config : PaperConfig
    coding : InputCoding
        How it is shown its input.
    weights : mapping of Tensor
        As ``models.architectures.paper.fold_bntt`` gives them.
    classes : sequence of SegmentationClass
    card : mapping
        What else the card says; ``window_us`` must be there if the network takes events.
    folder : Path
    """
    from safetensors.torch import save

    from models.zoo.packing import pack, split

    for stale in folder.glob(f"{glob.escape(name)}-?????-of-?????.safetensors"):
        stale.unlink()
    shards = [save(shard) for shard in split(pack(config, weights))]
    files = {_shard_name(name, k, len(shards)): data for k, data in enumerate(shards, 1)}
    for file, data in files.items():
        (folder / file).write_bytes(data)
    whole = {
        "name": name,
        "format": PAPER_FORMAT,
        "input": coding.source,
        "config": asdict(config),
        "coding": asdict(coding),
        "classes": [asdict(c) for c in classes],
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        **card,
    }
    write_card(whole, folder)


def _load_edge(
    name: str, card: dict[str, Any], folder: Path, backend: BackendChoice, precision: Precision
) -> StreamingModel:
    from models.architectures.edge import EdgeConfig
    from models.runtime.streaming import StreamingModel

    config = EdgeConfig(**_known_fields(EdgeConfig, card["config"]))
    ((path, sha256),) = _weight_files(name, card, folder).items()
    chosen = _choose_backend(_runs_on_kernel(card), backend)
    runtime = _edge_runtime(config, _read_weights(path, sha256), chosen, precision)
    window_us = int(card["window_us"])
    mark = _fingerprint(name, card, folder, chosen, precision)
    return StreamingModel(name, runtime, DDD17_CLASSES, window_us, card, mark)


def _edge_runtime(
    config: EdgeConfig, weights: Mapping[str, Tensor], backend: Backend, precision: Precision
) -> EdgeRuntime:
    from models.runtime.edge import EdgeRuntime
    from models.runtime.event_driven import EventDrivenRuntime

    return (EventDrivenRuntime if backend == "event-driven" else EdgeRuntime)(config, weights, precision)


def _runs_on_kernel(card: Mapping[str, Any]) -> bool:
    from models.architectures.edge import EdgeConfig
    from models.runtime.event_driven import supports

    if card["format"] == PAPER_FORMAT:
        return bool(card["config"]["spiking"])
    return supports(EdgeConfig(**_known_fields(EdgeConfig, card["config"])))


def _choose_backend(runs_on_kernel: bool, choice: BackendChoice) -> Backend:
    from models.runtime.event_driven import kernel

    if choice == "torch" or not runs_on_kernel:
        return "torch"
    try:
        kernel()
    except BackendUnavailableError as error:
        if choice == "event-driven":
            raise
        logger.warning("spiking networks are computed by torch, which is slower: %s", error)
        return "torch"
    return "event-driven"


def _load_paper(name: str, card: dict[str, Any], folder: Path, backend: BackendChoice) -> ProtocolModel | FrameModel:
    from models.architectures.paper import PaperConfig
    from models.coding import InputCoding
    from models.runtime.event_driven import EventDrivenPaperRuntime
    from models.runtime.paper import PaperRuntime
    from models.runtime.protocol import FrameModel, ProtocolModel
    from models.zoo.packing import join, unpack

    config = PaperConfig(**_known_fields(PaperConfig, card["config"]))
    coding = InputCoding(**_known_fields(InputCoding, card["coding"]))
    classes = _classes_of(card)
    shards = [_read_weights(path, sha256) for path, sha256 in _weight_files(name, card, folder).items()]
    chosen = _choose_backend(config.spiking, backend)
    runtime_of = EventDrivenPaperRuntime if chosen == "event-driven" else PaperRuntime
    runtime = runtime_of(config, unpack(config, join(shards)))
    if coding.source == "frames":
        return FrameModel(name, runtime, coding, classes, card)
    window_us = int(card["window_us"])
    mark = _fingerprint(name, card, folder, chosen, "int8")
    return ProtocolModel(name, runtime, coding, classes, window_us, card, mark)


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(_read_whole(path, sha256))


def _read_whole(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path.name} is missing: the weights are not complete") from None
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise WeightsError(f"{path.name} is damaged, or of another version than its card")
    return data


def _weight_files(name: str, card: Mapping[str, Any], folder: Path) -> dict[Path, str]:
    """A network's files of weights, in order, and the SHA-256 that the card has of each."""
    digests = card.get("files")
    if not isinstance(digests, Mapping) or not digests:
        raise WeightsError(f"the card of {name!r} has no digests of its weights (files): export the network again")
    count = len(digests)
    if card["format"] == PAPER_FORMAT:
        files = [_shard_name(name, k, count) for k in range(1, count + 1)]
    elif count == 1:
        files = [f"{name}.safetensors"]
    else:
        raise WeightsError(f"the card of {name!r} names {count} files of weights, a streaming network has one")
    return {folder / file: str(sha256) for file, (_, sha256) in zip(files, sorted(digests.items()), strict=True)}


def _shard_name(name: str, number: int, count: int) -> str:
    return f"{name}-{number:05}-of-{count:05}.safetensors"


def write_card(card: dict[str, Any], folder: Path = ZOO) -> None:
    """Write a card, complete with its name and format, into a folder of trained networks."""
    (folder / f"{card['name']}.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def _input_of(card: Path) -> str:
    try:
        return str(json.loads(card.read_text()).get("input", "events"))
    except (OSError, ValueError, AttributeError):
        return "events"


def _known_fields(cls: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a config's fields; a field that the card is too old to know keeps its default."""
    return {f.name: _tuple(stored[f.name]) for f in fields(cls) if f.name in stored}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
