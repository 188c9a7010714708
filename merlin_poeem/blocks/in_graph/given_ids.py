"""Excluded and allowed item ids as a call of the layer is given them, made values and offsets."""

from __future__ import annotations

from typing import Any, TypeAlias

import tensorflow as tf

GivenIds: TypeAlias = "tf.RaggedTensor | tf.Tensor | tuple[tf.Tensor, tf.Tensor] | None"


def values_and_offsets(name: str, given: Any, n_queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Int64, as :func:`~merlin_poeem.blocks.in_graph.search.search` takes them, of ``GivenIds``.

    Raises what :meth:`~merlin_poeem.blocks.IVFPQTopK.call` promises.
    """
    if given is None:
        return tf.zeros((0,), tf.int64), tf.zeros((1,), tf.int64)
    if isinstance(given, tuple):
        values, offsets = (_as_int64(name, part) for part in given)
        return values, offsets
    is_ragged = isinstance(given, tf.RaggedTensor)
    given = _as_int64(name, given)
    if given.shape.rank != (2 if is_ragged else 1):
        raise ValueError(
            f"{name}: expected a ragged (n_queries, None) or a (n_ids,) tensor, got {given.shape}"
        )
    if not is_ragged:
        return given, tf.stack([0, tf.size(given, tf.int64)])
    n_lists = given.nrows(tf.int64)
    message = f"{name}: expected as many lists as queries"
    with tf.control_dependencies([tf.debugging.assert_equal(n_lists, n_queries, message)]):
        return given.values, tf.cast(tf.identity(given.row_splits), tf.int64)


def _as_int64(name: str, given: Any) -> Any:
    """A tensor, ragged or not, of integers."""
    given = given if isinstance(given, tf.RaggedTensor) else tf.convert_to_tensor(given)
    if not given.dtype.is_integer:
        raise TypeError(f"{name}: expected integers, got {given.dtype.name}")
    return tf.cast(given, tf.int64)
