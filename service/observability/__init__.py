"""What the service says of itself while it runs: log lines, the ids that go with them, traces, health."""
