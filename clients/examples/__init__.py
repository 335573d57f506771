"""Short programs that use the clients; each runs as ``python -m clients.examples.NAME``."""
