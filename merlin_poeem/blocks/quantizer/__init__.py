"""The layer that learns the index: coarse lists, rotation and codewords."""
