"""Measurements of speed, each beside the recall it comes with."""
