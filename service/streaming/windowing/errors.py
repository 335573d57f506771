"""What a stored stream is refused with."""

from __future__ import annotations

from service.errors import UnusableInputError


class SnapshotError(UnusableInputError):
    """A snapshot, or a part of one, that is not as it should be."""

    code = "snapshot"
    title = "The snapshot cannot be used"
