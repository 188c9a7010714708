"""MovieLens, read or made up, and two towers that learn its ratings together with their index."""
