"""The service's HTTP and WebSocket calls."""
