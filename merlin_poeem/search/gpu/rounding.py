"""Up to the next number of a kind."""

from __future__ import annotations


def power_of_two(n: int) -> int:
    """The lowest power of two that is not below ``n``."""
    return 1 << max(0, n - 1).bit_length()


def round_up(n: int, step: int) -> int:
    """The lowest multiple of ``step`` that is not below ``n``."""
    return -(-n // step) * step
