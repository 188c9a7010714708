"""Train the query tower on, against the items as an index holds them: no item is encoded anew.

The last phase of JPQ (Zhan et al., CIKM 2021) and the cheapest way to stay fresh: new interactions
move the queries, and the index that is being served stays as it is, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from merlin_poeem.blocks.model.freshness import INFO_KEY, check_fresh, fingerprints_of
from merlin_poeem.blocks.model.towers import Towers
from merlin_poeem.index.index import Index


def refresh_queries(
    model: tf.keras.Model, index: Index, data: Any, *, optimizer: Any = "adam", **fit_options: Any
) -> Index:
    """Fit ``model`` to ``data`` with the item tower and its codes as they are.

    Parameters
    ----------
    model
        A compiled two-tower model with a started quantizer. It takes ``optimizer`` for this
        training only, and its own afterwards; its loss and metrics stay.
    index
        The one that was exported from it.
    data, **fit_options
        As of ``model.fit``.

    Returns
    -------
    Index
        ``index`` with the fingerprint of the new query tower: the same items, codes and lists.

    Raises
    ------
    StaleIndexError, ValueError
        ``index`` is not the model's.
    RuntimeError
        The quantizer has not started; or the item tower has changed after all, by a table that both
        towers share, a regularizer or batch normalisation: the index then has to be exported anew.
    """
    towers = Towers.of(model)
    towers.quantizer.quantization()
    check_fresh(index, fingerprints_of(towers))
    with towers.quantizer.frozen(), _trained_with(model, optimizer):
        model.fit(data, **fit_options)
    fingerprints = fingerprints_of(towers)
    if fingerprints["item_tower"] != index.info[INFO_KEY]["item_tower"]:
        raise RuntimeError(
            "item tower: expected it to stay as it is, got other weights: a table that both towers "
            "share, a regularizer or batch normalisation has moved it; export the index anew"
        )
    refreshed = index.with_n_probes(index.params.n_probes)
    refreshed.info[INFO_KEY] = fingerprints
    return refreshed


@contextmanager
def _trained_with(model: tf.keras.Model, optimizer: Any) -> Iterator[None]:
    """Inside this context, ``model.fit`` takes ``optimizer`` and a trace of its own."""
    own = model.optimizer
    # As ``compile`` does, which would also replace the model's loss and metrics.
    model.optimizer = model._get_optimizer(model._create_optimizer(optimizer))
    model.make_train_function(force=True)
    try:
        yield
    finally:
        model.optimizer = own
        model.make_train_function(force=True)
