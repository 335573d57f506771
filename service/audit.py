"""The audit log: what happened to sessions, and who was refused.

Each line goes to the logger ``service.audit`` at level INFO, whatever ``SPIKESEG_LOG_LEVEL`` says; its fields are
attributes of the record, which the formatters write out. A caller is named by the id of its key, never by a secret.
"""

from __future__ import annotations

import logging
from enum import StrEnum

logger = logging.getLogger("service.audit")
logger.setLevel(logging.INFO)


class Event(StrEnum):
    """What can happen."""

    OPENED = "session.opened"
    RESUMED = "session.resumed"
    TAKEN_OVER = "session.taken_over"
    ENDED = "session.ended"
    SNAPSHOT_READ = "snapshot.read"
    SNAPSHOT_WRITTEN = "snapshot.written"
    REFUSED = "access.refused"


def record(event: Event, *, key: str, **fields: str) -> None:
    """Write a line.

    Parameters
    ----------
    event : Event
    key : str
        Id of the caller's key; empty if the server is open, or the caller has shown none that is known.
    fields : str
        What else belongs to it: ``session``, ``reason``, ``path``, ``client``.
    """
    logger.info("%s", event, extra={"event": str(event), "key": key, **fields})
