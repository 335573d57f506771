"""Bytes to arrays and back: pure functions that know of no socket, session or network."""
