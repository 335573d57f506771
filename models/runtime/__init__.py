"""The stateful runtime: one step of a network as a pure function of an explicit state."""
