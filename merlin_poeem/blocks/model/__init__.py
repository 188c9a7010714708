"""The two-tower model around the layer: attaching it, starting it, telling models apart."""
