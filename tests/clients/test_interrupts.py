"""Ctrl-C while a result is written takes effect after it."""

from __future__ import annotations

import os
import signal

import pytest

from clients.cli.interrupts import Interrupts, interrupts


def test_it_is_held_back_until_what_is_being_written_is_whole() -> None:
    written = []

    def write_all(sigint: Interrupts) -> None:
        for result in range(3):
            with sigint.held():
                os.kill(os.getpid(), signal.SIGINT)
                written.append(result)

    with interrupts() as sigint, pytest.raises(KeyboardInterrupt):
        write_all(sigint)
    assert written == [0]


def test_between_two_results_it_is_heeded_at_once() -> None:
    with interrupts() as sigint:
        with sigint.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_the_handler_is_that_of_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
