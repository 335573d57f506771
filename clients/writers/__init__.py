"""Recordings of events, written piece by piece, in the formats that :mod:`clients.sources` reads."""

from clients.writers.writer import FORMATS, EventWriter, open_writer

__all__ = ["FORMATS", "EventWriter", "open_writer"]
