"""Where in a training the index starts: after a share of it, or after a number of steps."""

from __future__ import annotations

import math
import numbers

import tensorflow as tf

# The number of warm-up steps of a training whose length has not been told.
UNPLANNED = -1


def checked_warmup(warmup: float) -> float:
    """An int of at least 0, or a float from 0 to below 1; else ``ValueError`` or ``TypeError``."""
    is_steps = isinstance(warmup, numbers.Integral)
    if isinstance(warmup, bool) or not isinstance(warmup, numbers.Real):
        raise TypeError(f"warmup: expected a number, got {type(warmup).__name__}")
    if not 0 <= warmup < (math.inf if is_steps else 1):
        raise ValueError(
            f"warmup: expected a share from 0.0 to below 1, or at least 0 steps, got {warmup}"
        )
    return int(warmup) if is_steps else float(warmup)


def planned_steps(warmup: float, before: int, training_steps: int | None, name: str) -> int:
    """Where a share of a training ends, of which ``before`` is done and ``training_steps`` follow.

    ``ValueError`` where it is not known how many follow, None; ``name`` is the layer's.
    """
    if training_steps is None:
        raise ValueError(
            f"{name}: warmup = {warmup} is a share of a training of unknown length; "
            "expected steps_per_epoch= in fit, or a number of steps as warmup"
        )
    return int(warmup * (before + training_steps))


def require_planned(warmup_steps: tf.Tensor, warmup: float, name: str) -> None:
    """In a graph: ``InvalidArgumentError`` where the steps are ``UNPLANNED``."""
    tf.debugging.assert_greater_equal(
        warmup_steps,
        tf.constant(0, tf.int64),
        f"{name}: warmup = {warmup} is a share of a training of unknown length; "
        "expected callbacks=[IndexStart()] in fit, or a number of steps as warmup",
    )
