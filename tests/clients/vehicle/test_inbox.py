"""Messages that wait between a network's thread and a source."""

from __future__ import annotations

import time

from clients.vehicle.inbox import Inbox


def test_messages_come_out_in_order_with_the_time_at_which_they_came() -> None:
    inbox: Inbox[str] = Inbox()
    before = time.monotonic()
    inbox.put("first")
    between = time.monotonic()
    inbox.put("second")
    first, second = inbox.get(1.0), inbox.get(1.0)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == ("first", "second")
    assert before <= first[0] <= between <= second[0] <= time.monotonic()
    assert inbox.get(0.001) is None


def test_messages_that_come_too_fast_push_out_the_oldest() -> None:
    inbox: Inbox[int] = Inbox(3)
    for number in range(5):
        inbox.put(number)
    left = []
    while (found := inbox.get(0.001)) is not None:
        left.append(found[1])
    assert left == [2, 3, 4]
