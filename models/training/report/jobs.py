"""The measurements that the page is made of, and the commands that make them."""

from __future__ import annotations

import json
import shlex
import subprocess  # nosec B404
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from models import zoo
from models.errors import TrainingError
from models.training.report.networks import CONVERTED, FRAMES, NETWORKS, STREAMING, twin_name
from models.training.report.results import Record


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement of one network, kept in a file of its own.

    Attributes
    ----------
    kind : str
        What the file's name begins with.
    module : str
        Whose command makes it.
    network : str
    options : tuple of str
        Of the command, where none is stored; the output file is added.
    needs : tuple of str
        Networks without which there is nothing to measure.
    """

    kind: str
    module: str
    network: str
    options: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Name of its file without the suffix."""
        return f"{self.kind}-{self.network}"

    def path(self, folder: Path) -> Path:
        """Its file in a folder."""
        return folder / f"{self.stem}.json"

    def arguments(self, folder: Path) -> list[str]:
        """The command's arguments for Python, from ``-m`` on."""
        return ["-m", self.module, *self.options, "--out", str(self.path(folder))]


def conversion_job(name: str) -> Job:
    """Conversion of a network's twin, beside the network."""
    return Job("conversion", "models.training.convert", name, ("--model", name), (name, twin_name(name)))


def robustness_job(name: str, networks: Collection[str]) -> Job:
    """Robustness of a streaming network; the first one's file holds the frame network's too, if there is one."""
    options = ["--model", name, *_with_twin("--twin", name, networks)]
    frames = [frame for frame in FRAMES if frame in networks] if name == STREAMING[0] else []
    for frame in frames[:1]:
        options += ["--frame-model", frame, *_with_twin("--frame-twin", frame, networks)]
    return Job("robustness", "models.training.robustness", name, tuple(options), (name,))


def energy_job(name: str, networks: Collection[str]) -> Job:
    """Operations and energy of a streaming network."""
    options = ("--model", name, *_with_twin("--twin", name, networks))
    return Job("energy", "models.training.energy", name, options, (name,))


def weights_job(name: str) -> Job:
    """A streaming network's scores with weights of fewer bits."""
    return Job("weights", "models.training.weights", name, ("--model", name), (name,))


def _with_twin(option: str, name: str, networks: Collection[str]) -> list[str]:
    twin = twin_name(name)
    return [option, twin] if twin in networks else []


def jobs(networks: Collection[str]) -> list[Job]:
    """The measurements that the page is made of, for those of its networks that there are."""
    every = [
        *(conversion_job(name) for name in CONVERTED),
        *(robustness_job(name, networks) for name in STREAMING),
        *(energy_job(name, networks) for name in STREAMING),
        *(weights_job(name) for name in STREAMING),
    ]
    return [job for job in every if set(job.needs) <= set(networks)]


def command_line(arguments: Iterable[str]) -> str:
    """Arguments for Python as they are typed into a shell."""
    return shlex.join(["python", *arguments])


def job_command(job: Job, folder: Path, stored: Record | None = None) -> list[str]:
    """The command, for Python, that makes a measurement as it was made before.

    Parameters
    ----------
    job : Job
    folder : Path
        Where its file is to lie.
    stored : mapping, optional
        What the file held.

    Raises
    ------
    TrainingError
        If the stored command is another module's.
    """
    if stored is None or "command" not in stored:
        return job.arguments(folder)
    out = job.path(folder)
    interpreter, *arguments = shlex.split(stored["command"])
    if interpreter != "python" or arguments[:2] != ["-m", job.module]:
        raise TrainingError(f"{out}: its command is not one of {job.module}: {stored['command']}")
    if "--out" in arguments[:-1]:
        arguments[arguments.index("--out") + 1] = str(out)
        return arguments
    return [*arguments, "--out", str(out)]


def rescore_commands(networks: Collection[str]) -> list[list[str]]:
    """The commands, for Python, that score the page's networks and their twins anew and write it into their cards."""
    return [["-m", "models.training.export", "--name", name, "--rescore"] for name in NETWORKS if name in networks]


def rerun(folder: Path, progress: Callable[[str], None] = lambda _: None) -> None:
    """Score the networks of the zoo again, and make every measurement again.

    Raises
    ------
    TrainingError
        If a command fails.
    """
    networks = zoo.names()
    commands = rescore_commands(networks)
    for job in jobs(networks):
        path = job.path(folder)
        commands.append(job_command(job, folder, json.loads(path.read_text()) if path.is_file() else None))
    for arguments in commands:
        progress(command_line(arguments))
        command = [sys.executable, *arguments]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode  # nosec B603
        if code:
            raise TrainingError(f"{command_line(arguments)} ended with status {code}")
