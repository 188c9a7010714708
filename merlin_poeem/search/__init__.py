"""From queries to candidates: one protocol, several backends, the same answers."""
