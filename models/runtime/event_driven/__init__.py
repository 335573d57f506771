"""Networks computed where their spikes are: a C kernel, built once for the processor, as a runtime.

:mod:`.library` finds or builds the kernel, :mod:`.plan` lays out a network for it, :mod:`.runtime` steps it;
:mod:`.paper` has the layers of the paper's networks.
``python -m models.runtime.event_driven.warm`` builds the kernel beforehand.
"""

from models.runtime.event_driven.library import kernel
from models.runtime.event_driven.paper import EventDrivenPaperRuntime, SpikingLayerKernel, spiking_layers
from models.runtime.event_driven.plan import supports
from models.runtime.event_driven.probe import LayerProbe
from models.runtime.event_driven.runtime import EventDrivenRuntime

__all__ = [
    "EventDrivenPaperRuntime",
    "EventDrivenRuntime",
    "LayerProbe",
    "SpikingLayerKernel",
    "kernel",
    "spiking_layers",
    "supports",
]
