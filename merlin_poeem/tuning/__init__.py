"""The right n_probes and refine for an index."""
