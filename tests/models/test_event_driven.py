"""The event-driven runtime against the reference on torch and SpikingJelly's forward, and what else it promises."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, class_mask, fold_batch_norm, synapses
from models.encoding import InputGrid, polarity_counts
from models.errors import BackendUnavailableError, EncodingError, StateError
from models.events import EventBatch, SensorSize
from models.runtime.edge import EdgeRuntime, StepResult
from models.runtime.event_driven import EventDrivenRuntime, LayerProbe, library, warm
from models.runtime.exactness import Exactness, computing_threads, keeps_bits
from models.runtime.lif import lif_step
from models.runtime.model import WindowInput
from models.runtime.precision import PRECISIONS, Precision, rounded
from models.runtime.state import State
from tests.models.edge_networks import SMALL, network, windows

if not any(map(shutil.which, ("cc", "gcc", "clang"))):
    pytest.skip("there is no C compiler to build the event-driven kernel with", allow_module_level=True)

# Channels that fill no vector, more than one word of spikes, and one block of output channels; other dilations.
ODD = EdgeConfig(stem=5, stride4=7, stride8=70, pyramid=3, decoder=12, pyramid_rates=(1, 2, 5), classes=3)
WIDE = EdgeConfig(stem=16, stride4=33, stride8=208, pyramid=24, decoder=20, pyramid_rates=(1, 3), readout_scale=2)
CONFIGS = {"small": SMALL, "odd": ODD, "wide": WIDE}


def runtimes(
    config: EdgeConfig, seed: int = 0, precision: Precision = "float32"
) -> tuple[EdgeRuntime, EventDrivenRuntime]:
    weights = fold_batch_norm(network(config, seed))
    return EdgeRuntime(config, weights, precision), EventDrivenRuntime(config, weights, precision)


def assert_same_step(found: StepResult, expected: StepResult) -> None:
    for name, count in expected.spike_counts.items():
        assert found.spike_counts[name].tolist() == count.tolist(), name
    for name, v in expected.state.items():
        torch.testing.assert_close(found.state[name], v, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)


def clear_of_threshold(result: StepResult) -> bool:
    """Whether no neuron came so near its threshold that the order of sums decides."""
    # A neuron that just fires is left with next to nothing, one that just does not with next to 1.
    return all(
        float(v.abs().min()) > 1e-6 and float((v - 1).abs().min()) > 1e-6
        for name, v in result.state.items()
        if name != READOUT
    )


@settings(max_examples=40, deadline=None)
@given(
    config=st.sampled_from(sorted(CONFIGS)),
    precision=st.sampled_from(PRECISIONS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    batch=st.integers(1, 3),
    densities=st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=1, max_size=5),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_a_step_is_the_one_of_the_reference(
    config: str,
    precision: Precision,
    height: int,
    width: int,
    batch: int,
    densities: list[float],
    threads: int,
    seed: int,
) -> None:
    reference, tested = runtimes(CONFIGS[config], seed % 3, precision)
    state = reference.initial_state(batch, height, width)
    for k, density in enumerate(densities):
        x = windows(1, batch, height, width, density, seed + k)[0].float()
        expected = reference.step(state, x)
        with computing_threads(threads):
            found = tested.step(state, x)
        if clear_of_threshold(expected):
            assert_same_step(found, expected)
        state = expected.state


@settings(max_examples=10, deadline=None)
@given(st.integers(9, 40), st.integers(9, 40), st.floats(0, 0.5), st.integers(0, 1000))
def test_a_stream_is_the_one_of_spikingjelly(height: int, width: int, density: float, seed: int) -> None:
    net = network(SMALL, seed)
    x = windows(6, 2, height, width, density, seed).float()
    functional.reset_net(net)
    with torch.no_grad():
        expected, spikes = net.forward_with_spikes(x)
    runtime = EventDrivenRuntime(SMALL, fold_batch_norm(net))
    state = runtime.initial_state(2, height, width)
    for k in range(len(x)):
        result = runtime.step(state, x[k])
        state = result.state
        torch.testing.assert_close(result.logits, expected[k], atol=1e-4, rtol=1e-4)
        for name, s in spikes.items():
            assert result.spike_counts[name].tolist() == s[k].sum(dim=(1, 2, 3)).long().tolist(), name


def test_input_of_any_value_counts_with_its_value() -> None:
    reference, tested = runtimes(SMALL)
    x = torch.randn(1, 2, 20, 24, generator=torch.Generator().manual_seed(1))
    state = reference.initial_state(1, 20, 24)
    assert_same_step(tested.step(state, x), reference.step(state, x))


def random_events(seed: int, count: int, sensor: SensorSize) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.sort(rng.integers(0, 10_000, count)),
        rng.integers(0, sensor.width, count, np.uint16),
        rng.integers(0, sensor.height, count, np.uint16),
        rng.integers(0, 2, count, np.uint8),
    )


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 3),
    st.integers(0, 3000),
    st.integers(1, 6),
    st.integers(0, 9),
)
def test_events_are_counted_as_the_encoding_says(
    height: int, width: int, factor: int, count: int, clip: int, seed: int
) -> None:
    config = replace(SMALL, count_clip=clip)
    weights = fold_batch_norm(network(config))
    tested = EventDrivenRuntime(config, weights)
    sensor = SensorSize(width, height)
    grid = InputGrid(sensor, factor)
    events = random_events(seed, count, sensor)
    state = tested.initial_state(1, grid.height, grid.width)
    x = torch.from_numpy(polarity_counts(events, grid, clip))[None]
    from_tensor, from_events = tested.step(state, x), tested.answer([(state, events, grid)])[0]
    assert from_events.state.equals(from_tensor.state)
    assert from_events.spike_counts == from_tensor.counts_of(0)
    assert torch.equal(from_events.logits, from_tensor.logits)


def test_an_event_outside_the_sensor_is_refused() -> None:
    _, tested = runtimes(SMALL)
    grid = InputGrid(SensorSize(20, 10), 1)
    events = random_events(0, 10, SensorSize(21, 10))
    events.x[3] = 20
    with pytest.raises(EncodingError, match="outside the 20x10 sensor"):
        tested.answer([(tested.initial_state(1, 10, 20), events, grid)])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 7), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 1000)
)
def test_a_mask_is_the_one_of_the_reference_but_for_ties(
    rows: int, columns: int, classes: int, stride: int, seed: int
) -> None:
    _, tested = runtimes(SMALL)
    logits = torch.randn(1, classes, rows, columns, generator=torch.Generator().manual_seed(seed))
    height, width = rows * stride, max(1, columns * stride - 1)
    found, expected = (
        tested.class_mask(logits, height, width, stride),
        class_mask(logits, height, width, stride),
    )
    full = torch.nn.functional.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
    picked = full[0, :, :height, :width].gather(0, torch.from_numpy(found.astype(np.int64))[None])[0]
    best = full[0, :, :height, :width].gather(0, torch.from_numpy(expected.astype(np.int64))[None])[0]
    assert float((best - picked).abs().max()) < 1e-5


def test_of_equal_classes_the_lowest_is_taken() -> None:
    _, tested = runtimes(SMALL)
    assert not tested.class_mask(torch.zeros(1, 5, 3, 4), 12, 16, 4).any()


@pytest.fixture(scope="module")
def edge_s() -> zoo.StreamingModel:
    return zoo.load("edge-s", backend="event-driven")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_bit_hangs_on_batch_and_threads(precision: Precision) -> None:
    model, sensor = zoo.load("edge-s", backend="event-driven", precision=precision), SensorSize(90, 70)
    assert keeps_bits(model, sensor, rows=3, threads=1)
    assert keeps_bits(model, sensor, rows=1, threads=3)
    assert keeps_bits(model, sensor, rows=2, threads=2)


def test_its_exactness_is_known_without_a_trial(edge_s: zoo.StreamingModel) -> None:
    exactness = Exactness()
    assert exactness.known(edge_s, SensorSize(90, 70), rows=4, threads=2) is True
    torch_model = zoo.load("edge-s", backend="torch")
    assert exactness.known(torch_model, SensorSize(90, 70), rows=4, threads=2) is None


def test_a_step_leaves_state_and_input_as_they_are() -> None:
    _, tested = runtimes(SMALL)
    x = windows(2, 1, 20, 24, 0.2).float()
    state = tested.step(tested.initial_state(1, 20, 24), x[0]).state
    before, x_before = {name: v.clone() for name, v in state.items()}, x.clone()
    first, second = tested.step(state, x[1]), tested.step(state, x[1])
    assert all(torch.equal(v, before[name]) for name, v in state.items())
    assert torch.equal(x, x_before)
    assert first.state.equals(second.state)
    assert torch.equal(first.logits, second.logits)


def test_a_state_may_lie_in_memory_in_any_way() -> None:
    _, tested = runtimes(SMALL)
    x = windows(2, 2, 20, 24, 0.2).float()
    state = tested.step(tested.initial_state(2, 20, 24), x[0]).state
    planes = State({name: v.contiguous() for name, v in state.items()})
    assert tested.step(planes, x[1]).state.equals(tested.step(state, x[1]).state)


def test_the_other_backend_takes_the_state_but_is_not_the_same_network(edge_s: zoo.StreamingModel) -> None:
    other = zoo.load("edge-s", backend="torch")
    assert other.fingerprint != edge_s.fingerprint
    sensor = SensorSize(60, 40)
    state = edge_s.initial_state(sensor)
    for k in range(4):
        state = (edge_s, other)[k % 2].segment(state, random_events(k, 900, sensor), sensor).state
    expected = other.initial_state(sensor)
    for k in range(4):
        expected = other.segment(expected, random_events(k, 900, sensor), sensor).state
    for name, v in expected.items():
        torch.testing.assert_close(state[name], v, atol=1e-4, rtol=1e-4)


def test_each_new_state_has_memory_of_its_own(edge_s: zoo.StreamingModel) -> None:
    sensor = SensorSize(60, 40)
    inputs = [WindowInput(edge_s.initial_state(sensor), random_events(k, 500, sensor), sensor) for k in range(2)]
    one, two = edge_s.segment_many(inputs)
    storages = [answer.state["stem"].untyped_storage() for answer in (one, two)]
    assert storages[0].data_ptr() != storages[1].data_ptr()
    assert all(storage.nbytes() == one.state.nbytes for storage in storages)


def test_a_state_of_another_grid_is_refused() -> None:
    _, tested = runtimes(SMALL)
    with pytest.raises(StateError, match="layer stem has shape"):
        tested.step(tested.initial_state(1, 20, 20), torch.zeros(1, 2, 24, 24))


def test_the_zoo_says_what_computes_a_network() -> None:
    assert zoo.load("edge-s").backend == "event-driven"
    assert zoo.load("edge-s", backend="torch").backend == "torch"
    assert zoo.describe("edge-s").backend == "event-driven"
    assert zoo.describe("edge-s", backend="torch").backend == "torch"
    # Twins have no other.
    assert zoo.load("edge-s-ann", backend="event-driven").backend == "torch"


def without_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "BESIDE", folder / "none")
    library._load.cache_clear()


@pytest.fixture
def fresh_kernel() -> object:
    yield
    library._load.cache_clear()


@pytest.mark.usefixtures("fresh_kernel")
def test_where_no_kernel_can_be_built_torch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch, tmp_path)
    assert zoo.load("edge-s").backend == "torch"
    with pytest.raises(BackendUnavailableError, match="no C compiler"):
        zoo.load("edge-s", backend="event-driven")


@pytest.mark.usefixtures("fresh_kernel")
def test_a_kernel_that_others_may_write_to_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = library.build(library.instructions_here()[0], library.cache_folder())
    path.chmod(0o777)
    library._load.cache_clear()
    with pytest.raises(BackendUnavailableError, match="others may write"):
        library.kernel()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where each kernel is built once."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", library.instructions_here())
def test_every_kernel_that_runs_here_gives_the_steps_of_the_reference(
    instructions: str, precision: Precision, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = library.Kernel(library.build(instructions, kernels))
    monkeypatch.setattr("models.runtime.event_driven.runtime.kernel", lambda: built)
    for config in CONFIGS.values():
        reference, tested = runtimes(config, precision=precision)
        state = reference.initial_state(2, 30, 23)
        for x in windows(3, 2, 30, 23, 0.2).float():
            expected = reference.step(state, x)
            assert_same_step(tested.step(state, x), expected)
            state = expected.state


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_of_all_processors_that_multiply_and_add_at_once_give_the_same_bits(
    precision: Precision, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in library.instructions_here() if name != "baseline"]
    if len(names) < 2:
        pytest.skip("this processor runs fewer than two such kernels")
    for config in CONFIGS.values():
        steps = []
        for name in names:
            built = library.Kernel(library.build(name, kernels))
            monkeypatch.setattr("models.runtime.event_driven.runtime.kernel", lambda built=built: built)
            _, tested = runtimes(config, precision=precision)
            state = tested.initial_state(1, 30, 23)
            for x in windows(4, 1, 30, 23, 0.2).float():
                result = tested.step(state, x)
                state = result.state
            steps.append(result)
        assert steps[0].state.equals(steps[1].state)
        assert torch.equal(steps[0].logits, steps[1].logits)


def test_the_command_builds_the_kernel_beforehand(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm, "BESIDE", kernels)
    assert warm.main(["--image"]) == 0
    built = sorted(kernels.iterdir())
    assert sorted(map(Path, capsys.readouterr().out.split())) == built
    assert {library.file_name(name) for name in library.instructions_here()} <= {path.name for path in built}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in built)


def test_what_is_built_for_an_image_can_be_read_by_the_user_who_runs_it(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    (path,) = library.build_all(folder, ["baseline"])
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, path)] == [0o755, 0o755]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("layer", ["down4", "enc8b", "pyramid5", "context", "decoder"])
def test_a_layer_by_itself_is_the_convolution_of_its_spikes(layer: str, density: float, precision: Precision) -> None:
    weights = fold_batch_norm(network(ODD))
    probe = LayerProbe(EventDrivenRuntime(ODD, weights, precision), layer, 37, 30, density=density, seed=1)
    probe.run()
    s = synapses(ODD)[layer]
    weights = rounded(weights, precision)
    current = torch.nn.functional.conv2d(
        probe.spikes, weights[f"{layer}.weight"], weights[f"{layer}.bias"], s.stride, s.padding, s.dilation
    )
    spikes, v = lif_step(current, probe.membranes, weights[f"{layer}.keep"].reshape(-1, 1, 1))
    after, fired = probe.result
    assert fired == int(spikes.sum())
    torch.testing.assert_close(after, v, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_of_the_largest_bytes_do_not_overflow(sign: int) -> None:
    weights = fold_batch_norm(network(WIDE))
    # All rows of one tap after the other add up to 208 · 9 · 127, which is no integer of 16 bits.
    weights["enc8a.weight"] = torch.full_like(weights["enc8a.weight"], sign / 1024)
    probe = LayerProbe(EventDrivenRuntime(WIDE, weights, "int8"), "enc8a", 40, 40, density=1.0, seed=1)
    probe.run()
    s = synapses(WIDE)["enc8a"]
    current = torch.nn.functional.conv2d(
        probe.spikes, weights["enc8a.weight"], weights["enc8a.bias"], s.stride, s.padding, s.dilation
    )
    _, v = lif_step(current, probe.membranes, weights["enc8a.keep"].reshape(-1, 1, 1))
    torch.testing.assert_close(probe.result[0], v, atol=1e-5, rtol=1e-5)
