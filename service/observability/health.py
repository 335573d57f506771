"""What is well with the server and what is not, since when, and in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

logger = logging.getLogger(__name__)


class Status(IntEnum):
    """How a part of the server is; the worst is the largest."""

    OK = 0
    DEGRADED = 1
    FAILING = 2

    @property
    def word(self) -> str:
        """As it stands in documents."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """How a part of the server is found.

    Attributes
    ----------
    status : Status
    reason : str
        One sentence.
    """

    status: Status
    reason: str

    @classmethod
    def ok(cls, reason: str) -> Finding:
        """All is well."""
        return cls(Status.OK, reason)


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the server, and since when it has been as it is."""

    finding: Finding
    since: datetime

    def document(self) -> dict[str, Any]:
        """Its members in a health document."""
        return {
            "status": self.finding.status.word,
            "since": self.since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "reason": self.finding.reason,
        }


class HealthMonitor:
    """Remembers how each component was, and logs when that changes.

    Parameters
    ----------
    checks : mapping of str to callable
        How each component is; they must return at once.
    now : callable
        The time.
    """

    def __init__(
        self, checks: Mapping[str, Callable[[], Finding]], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._checks = checks
        self._now = now
        self._components: dict[str, Component] = {}

    def look(self, names: Iterable[str] | None = None) -> dict[str, Component]:
        """How the components of these names are, or all of them."""
        found = {name: self._look(name) for name in (self._checks if names is None else names)}
        self._components |= found
        return found

    def _look(self, name: str) -> Component:
        finding = self._checks[name]()
        before = self._components.get(name)
        if before is not None and before.finding.status is finding.status:
            return Component(finding, before.since)
        was = Status.OK if before is None else before.finding.status
        if finding.status is not was:
            level = logging.WARNING if finding.status > was else logging.INFO
            fields = {"component": name, "status": finding.status.word, "was": was.word}
            logger.log(level, "%s is %s: %s", name, finding.status.word, finding.reason, extra=fields)
        return Component(finding, self._now())


def worst(components: Mapping[str, Component]) -> Status:
    """The status of them together."""
    return max((component.finding.status for component in components.values()), default=Status.OK)
