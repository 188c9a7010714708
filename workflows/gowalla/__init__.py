"""Gowalla, read or made up, and two towers that learn its check-ins together with their index."""
