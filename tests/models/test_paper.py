"""The paper's Spiking-DeepLab: parameter counts to the digit, shapes, and the explicit-state runtime."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional

from models.architectures.paper import PaperConfig, PaperDeepLab
from models.errors import StateError
from models.runtime.paper import PaperRuntime


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PaperConfig(classes=6, input_channels=2), 4_142_720),
        (PaperConfig(classes=6, input_channels=2, spiking=False), 4_099_200),
        (PaperConfig(classes=21, input_channels=3), 4_158_656),
        (PaperConfig(classes=21, input_channels=3, spiking=False), 4_115_136),
    ],
)
def test_parameter_counts_are_those_of_the_authors(config: PaperConfig, parameters: int) -> None:
    assert sum(p.numel() for p in PaperDeepLab(config).parameters()) == parameters


def test_explicit_state_equals_spikingjelly() -> None:
    torch.manual_seed(1)
    network = PaperDeepLab(PaperConfig(steps=4)).eval()
    for name, parameter in network.named_parameters():
        if name.startswith("norms"):
            # Louder than at the start, so that spikes reach the last layer within four steps.
            torch.nn.init.uniform_(parameter, 2, 5)
    x = torch.randint(-1, 2, (4, 2, 2, 20, 26)).float()
    functional.reset_net(network)
    with torch.no_grad():
        expected = network(x)

    runtime = PaperRuntime(network)
    state = runtime.initial_state(2, 20, 26)
    for k in range(4):
        state = runtime.step(state, x[k], k).state
    torch.testing.assert_close(runtime.logits(state, 20, 26), expected, atol=1e-4, rtol=1e-4)
    for name, node in network.nodes.items():
        torch.testing.assert_close(state[name], node.v, atol=1e-4, rtol=1e-4)
    assert float(expected.abs().max()) > 0


def test_the_network_is_tied_to_its_number_of_steps() -> None:
    runtime = PaperRuntime(PaperDeepLab(PaperConfig(steps=2)))
    with pytest.raises(StateError, match="start from rest again"):
        runtime.step(runtime.initial_state(1, 8, 8), torch.zeros(1, 2, 8, 8), 2)


def test_ann_twin_answers_in_one_pass() -> None:
    network = PaperDeepLab(PaperConfig(spiking=False))
    assert network(torch.zeros(1, 1, 2, 16, 24)).shape == (1, 6, 16, 24)
