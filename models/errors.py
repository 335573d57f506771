"""Errors of the models package.

ModelsError
 ├── UnknownModelError    no network of that name in the zoo
 ├── WeightsError         weights or card missing, damaged, or not of this network
 ├── StateError           a state that does not belong to this network or sensor
 ├── EncodingError        events or frames that cannot be turned into a tensor
 ├── BackendUnavailableError  what is to compute a network cannot run it on this machine
 ├── EmulatorError        frames or settings that the emulator cannot use
 ├── FilterError          settings or events that the noise filters cannot use
 ├── TrainingError        settings or a checkpoint that a training run cannot use
 └── DatasetNotFoundError the data asked for is not on this machine
"""

from __future__ import annotations


class ModelsError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownModelError(ModelsError):
    """No network of that name in the zoo."""


class WeightsError(ModelsError):
    """Weights or their card are missing, damaged, or not of this network."""


class StateError(ModelsError):
    """A state that does not belong to this network or sensor."""


class EncodingError(ModelsError):
    """Events or frames that cannot be turned into an input tensor."""


class BackendUnavailableError(ModelsError):
    """What is to compute a network cannot run it, or cannot be built on this machine; the message says why."""


class EmulatorError(ModelsError):
    """Frames or settings that the emulator cannot use."""


class FilterError(ModelsError):
    """Settings or events that the noise filters cannot use."""


class TrainingError(ModelsError):
    """Settings or a checkpoint that a training run cannot use."""


class DatasetNotFoundError(ModelsError):
    """The data asked for is not on this machine; the message says what was looked for."""
