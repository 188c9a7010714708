"""A Keras callback that shows each epoch what quantization costs: recall with and without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from merlin_poeem.arrays import Int64
from merlin_poeem.blocks.export.export import (
    chosen_n_probes,
    export_index,
    item_vectors,
    query_vectors,
)
from merlin_poeem.blocks.export.tower_rows import Frames
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow
from merlin_poeem.blocks.model.towers import find_quantizer
from merlin_poeem.evaluate import exact_search, list_balance, recall_at_k
from merlin_poeem.frames.item_ids import have_texts, lists_by_id
from merlin_poeem.index.item_keys import ItemKeys, Keys
from merlin_poeem.quantization.params import count, positive_int
from merlin_poeem.search.ragged import IdLists
from merlin_poeem.search.searcher import open_searcher


class QuantizedRecall(tf.keras.callbacks.Callback):
    """Adds to the logs of each epoch, and so to the progress bar's line and to ``History``:

    - ``float_recall_at_k``: recall of exact search over the item tower's float vectors;
    - ``quantized_recall_at_k``: recall of the index as it would be exported now (from the epoch on
      in which the quantizer has started);
    - ``max_over_mean_list``: size of the largest list over the mean.

    Other callbacks, such as ``EarlyStopping(monitor="quantized_recall_at_20", mode="max")``, can
    use them; list them after this one.
    """

    def __init__(
        self,
        queries: Frames,
        items: Frames,
        relevant: Any,
        *,
        k: int = 20,
        n_probes: int | None = None,
        refine: int = 0,
        exclude: Any = None,
        backend: str = "auto",
        workflow: AnyWorkflow | None = None,
        item_id_column: str | None = None,
        batch_size: int = 4096,
    ) -> None:
        """
        Parameters
        ----------
        queries
            Rows with the query tower's columns, one a query.
        items
            Rows with the item tower's columns: the catalog.
        workflow
            As of :func:`~merlin_poeem.blocks.export_index`: ``queries`` and ``items`` are then raw
            rows.
        relevant, exclude
            Per query, the ids of the items it should find, and of those it must not be shown (such
            as the training items); an :class:`~merlin_poeem.IdLists` or a sequence of rows, of
            texts where item ids are.
        k, refine, backend
            As of :class:`~merlin_poeem.Searcher`. With ``refine`` above 0 the index stores the
            vectors of its items, in float16.
        n_probes
            As of :func:`~merlin_poeem.blocks.export_index`.
        item_id_column
            The column of ``items`` that ``relevant`` and ``exclude`` speak of; None is the one
            tagged as item id.
        batch_size
            Rows per call of a tower.
        """
        super().__init__()
        self.queries, self.items = queries, items
        self.relevant = _lists("relevant", relevant, len(relevant))
        self.exclude = None if exclude is None else _lists("exclude", exclude, len(relevant))
        self.k = positive_int("k", k)
        self.n_probes = None if n_probes is None else positive_int("n_probes", n_probes)
        self.refine = count("refine", refine)
        self.backend = backend
        self.workflow = workflow
        self.item_id_column = item_id_column
        self.batch_size = batch_size
        self._numbers_are_ours = False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Find a misplaced quantizer before the first step, not after the first epoch."""
        if self.model.built:
            find_quantizer(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Search the validation queries, exactly and through the index."""
        logs = {} if logs is None else logs
        quantizer = find_quantizer(self.model)
        options: dict[str, Any] = {
            "workflow": self.workflow,
            "batch_size": self.batch_size,
            "progress": False,
        }
        _, queries = query_vectors(self.model, self.queries, **options)
        options["id_column"] = self.item_id_column
        item_ids, vectors = item_vectors(self.model, self.items, **options)
        if item_ids.dtype == object:
            item_ids = self._numbered(item_ids)
        exact = exact_search(
            item_ids,
            vectors,
            queries,
            k=self.k,
            metric=quantizer.params.metric,
            exclude=self.exclude,
            progress=False,
        )
        logs[f"float_recall_at_{self.k}"] = recall_at_k(exact, self.relevant, self.k)
        if not quantizer.is_started.numpy():
            return
        # Chosen, and logged, in the first epoch that needs it.
        n_lists = quantizer.params.n_lists
        self.n_probes = chosen_n_probes(self.n_probes, len(item_ids), n_lists)
        index = export_index(
            self.model,
            self.items,
            n_probes=self.n_probes,
            store_vectors="float16" if self.refine else None,
            **options,
        )
        searcher = open_searcher(index, self.backend)
        found = searcher.search(queries, k=self.k, refine=self.refine, exclude=self.exclude)
        logs[f"quantized_recall_at_{self.k}"] = recall_at_k(found, self.relevant, self.k)
        logs["max_over_mean_list"] = list_balance(index).max_over_mean

    def _numbered(self, keys: Keys) -> Int64:
        """The numbers that an export gives to ``keys``, and takes for them in the lists."""
        item_ids = np.arange(len(keys), dtype=np.int64)
        if not self._numbers_are_ours:
            known = ItemKeys(item_ids, keys)
            for name in ("relevant", "exclude"):
                given = getattr(self, name)
                if isinstance(given, IdLists) and len(given.values):
                    raise TypeError(
                        f"{name}: expected texts, as the ids of items are, such as {keys[0]!r}; "
                        f"got integers, such as {given.values[0]}"
                    )
                setattr(self, name, lists_by_id(known, given))
            self._numbers_are_ours = True
        return item_ids


def _lists(name: str, given: Any, n_queries: int) -> Any:
    """IdLists; texts as they are, which only a catalog can look up."""
    if not have_texts(given):
        return IdLists.of(name, given, n_queries)
    if len(given) != n_queries:
        raise ValueError(f"{name}: expected {n_queries} lists, one a query; got {len(given)}")
    return given
