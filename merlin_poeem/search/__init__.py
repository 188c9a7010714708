"""Search backends: one protocol, the same answers."""
