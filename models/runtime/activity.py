"""What a window cost: spikes, synaptic operations, and an estimate of energy.

Definitions as the field uses them. The synaptic operations (SOPs) of a layer are its dense multiply-accumulates times
the share of its inputs that are not zero; biases are left out. The dense ones count padding as input, as SpikingJelly's
counters do, so that this is more than the operations that the spikes cause (NeuroBench's effective ones), most of all
in layers whose dilation is near the size of their grid, as in the paper's networks at 64x64;
``models.training.energy`` counts both. The first layer sees polarity counts: its operations are multiply-accumulates,
those of the others accumulates. Energy counts 4.6 pJ for every multiply-accumulate of the first layer, zero input or
not, and 0.9 pJ for each accumulate behind it (45 nm, fp32; Horowitz, ISSCC 2014). It is an estimate: memory traffic and
membrane updates are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

E_MAC_J = 4.6e-12
E_AC_J = 0.9e-12


@dataclass(frozen=True, slots=True)
class LayerActivity:
    """What one layer did in one window.

    Attributes
    ----------
    name : str
    neurons : int
        0 for a layer that never fires, such as the readout.
    spikes : int
    sops : float
        Synaptic operations into this layer.
    steps : int
        Time steps in this window, over which spikes and operations are added up.
    """

    name: str
    neurons: int
    spikes: int
    sops: float
    steps: int = 1

    @property
    def neuron_steps(self) -> int:
        """Neurons times time steps: the most spikes that there could have been."""
        return self.neurons * self.steps

    @property
    def firing_rate(self) -> float:
        """Spikes for each neuron and step in this window."""
        return self.spikes / self.neuron_steps if self.neurons else 0.0


@dataclass(frozen=True, slots=True)
class SpikeActivity:
    """What the network did in one window.

    Attributes
    ----------
    layers : tuple of LayerActivity
    macs_ann : float
        Multiply-accumulates of an ANN with the same convolutions over the same input: every input, zero or not. (A twin
        that sees several windows at once needs more in its first layer.)
    macs_analog : float
        Multiply-accumulates that the network itself makes, in the layers that see analog input.
    analog : tuple of int
        Which of the layers those are.
    """

    layers: tuple[LayerActivity, ...]
    macs_ann: float
    macs_analog: float
    analog: tuple[int, ...] = (0,)

    @property
    def firing_rate(self) -> float:
        """Spikes for each neuron and step of the network in this window."""
        neuron_steps = sum(layer.neuron_steps for layer in self.layers)
        return sum(layer.spikes for layer in self.layers) / neuron_steps if neuron_steps else 0.0

    @property
    def sops(self) -> float:
        """Synaptic operations of all layers."""
        return sum(layer.sops for layer in self.layers)

    @property
    def energy_snn_j(self) -> float:
        """Estimated joules: multiply-accumulates of the analog layers, accumulates of the others."""
        accumulates = sum(layer.sops for index, layer in enumerate(self.layers) if index not in self.analog)
        return E_MAC_J * self.macs_analog + E_AC_J * accumulates

    @property
    def energy_ann_j(self) -> float:
        """Estimated joules of an ANN with the same convolutions over the same input."""
        return E_MAC_J * self.macs_ann
