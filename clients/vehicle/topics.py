"""Names of topics, the same in ROS 1 and ROS 2."""

from __future__ import annotations

import re

from clients.errors import InputError

_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def checked_topic(topic: str) -> str:
    """A topic's name as it is.

    Raises
    ------
    InputError
        If it is no absolute name of ROS.
    """
    if not _TOPIC.fullmatch(topic):
        raise InputError(f"{topic!r} is no absolute topic of ROS, as /spikeseg/labels")
    return topic
