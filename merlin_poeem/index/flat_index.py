"""FlatIndex: the items of a catalog by their vectors alone, searched exactly."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import (
    Float32,
    Int64,
    as_item_ids,
    as_vectors,
    check_unique,
    largest_value,
    normalize,
    read_only,
)
from merlin_poeem.index.held_items import (
    HeldItems,
    known_rows,
    numbered_additions,
    numbered_items,
    refuse_held,
    table_with,
    table_with_keys,
)
from merlin_poeem.index.item_keys import INFO_KEY, check_info
from merlin_poeem.index.item_table import check_item_table, check_rows
from merlin_poeem.quantization.params import METRICS, Metric
from merlin_poeem.quantization.stored_vectors import FlatDtype, StoredVectors

if TYPE_CHECKING:
    import pandas as pd

MIDDLE_ROWS = 1024


class FlatIndex(HeldItems):
    """Items and their vectors, without lists and codes: every search scores every item.

    For small catalogs, and to compare an :class:`~merlin_poeem.Index` with. Immutable and searched
    like one, by every backend; a search takes no ``n_probes`` and no ``refine``. Rows are sorted by
    item id. Make one with :meth:`from_vectors` or :func:`~merlin_poeem.load_flat_index`.
    """

    def __init__(
        self,
        metric: Metric,
        item_ids: Int64,
        vectors: StoredVectors,
        item_table: pd.DataFrame | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """``item_ids`` (n,) rise, and ``vectors`` are theirs; use :meth:`from_vectors`."""
        self.metric = metric
        self.item_ids = item_ids
        """(n_items,) int64, rising."""
        self.vectors = vectors
        """(n_items, dim), of unit length under cosine, and under l2 counted from an origin."""
        self.item_table = item_table
        """Optional columns about the items, with an ``item_id`` column."""
        self.info: dict[str, Any] = deepcopy(dict(info or {}))
        """Free JSON values saved with the index."""

    @classmethod
    def from_vectors(
        cls,
        item_ids: Any,
        vectors: Float32,
        *,
        metric: Metric = "inner_product",
        store_vectors: FlatDtype = "float32",
        item_table: pd.DataFrame | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> FlatIndex:
        """Of raw (n, dim) float32 ``vectors``, kept in ``store_vectors``.

        ``"float32"`` takes 4 bytes a dimension; ``"float16"`` 2 and ``"int8"`` 1, and 4 more an
        item. Under cosine vectors are kept at unit length, under l2 less what they are counted
        from, in float32's digits. ``item_table`` and ``info`` are copied. ``item_ids`` are integers
        or texts, as of :meth:`Index.from_vectors <merlin_poeem.Index.from_vectors>`.

        Raises
        ------
        TypeError, ValueError
            Wrong dtype or shape, no columns, NaN, values above 1e15 in size unless the metric is
            cosine, repeated ids or another number of them, an unknown metric or dtype; a table
            or info that :meth:`Index.from_codes <merlin_poeem.Index.from_codes>` would refuse.
        """
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {metric!r}")
        item_ids, item_table, info = numbered_items(item_ids, item_table, info)
        item_ids, vectors = _checked(item_ids, vectors, None, metric)
        origin = _middle(vectors) if metric == "l2" else None
        stored = StoredVectors.of(vectors, store_vectors, origin)
        if item_table is not None:
            item_table = check_item_table(item_table)
            check_rows(item_table, item_ids, "the index's items")
        check_info(info, item_table)
        order = np.argsort(item_ids)
        return cls(metric, read_only(item_ids[order]), stored[order], item_table, info)

    def __len__(self) -> int:
        return self.n_items

    def __repr__(self) -> str:
        return (
            f"FlatIndex(n_items={self.n_items}, dim={self.dim}, metric={self.metric!r}, "
            f"dtype={self.vectors.dtype!r})"
        )

    @property
    def n_items(self) -> int:
        """Items held."""
        return len(self.item_ids)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.vectors.values.shape[1])

    @cached_property
    def largest_length(self) -> float:
        """Of the vectors as they are stored, counted from their origin."""
        squares = [
            float(np.einsum("nd,nd->n", part, part, dtype=np.float64).max(initial=0))
            for part in self.vectors.decoded_parts()
        ]
        return float(np.sqrt(max(squares, default=0.0)))

    def rows_of(self, item_ids: Int64) -> Int64:
        """Row of each id, −1 where the index does not hold it. (n,) int64 in, (n,) int64 out."""
        if not self.n_items:
            return np.full(len(item_ids), -1, np.int64)
        rows = np.minimum(np.searchsorted(self.item_ids, item_ids), self.n_items - 1)
        return np.where(self.item_ids[rows] == item_ids, rows, -1)

    def vectors_of(self, item_ids: Any) -> Float32:
        """Vectors (n, dim) float32 of items held, as stored; ``ValueError`` on others."""
        decoded = self.vectors.decoded(known_rows(self, item_ids))
        return decoded if self.vectors.origin is None else decoded + self.vectors.origin

    def extend(
        self, item_ids: Any, vectors: Float32, *, item_table: pd.DataFrame | None = None
    ) -> FlatIndex:
        """A new index that also holds these items.

        Arguments and errors are those of :meth:`Index.extend <merlin_poeem.Index.extend>`.
        """
        item_ids, item_table = numbered_additions(self, item_ids, item_table)
        item_ids, vectors = _checked(item_ids, vectors, self.dim, self.metric)
        refuse_held(self, item_ids)
        table = table_with(self, item_table, item_ids)
        origin, held = self.vectors.origin, [self.vectors]
        if self.metric == "l2" and not self.n_items:
            # Nothing is counted from it yet, and far from all it would cost digits.
            origin, held = _middle(vectors), []
        added = StoredVectors.of(vectors, self.vectors.dtype, origin)
        all_ids = np.concatenate([self.item_ids, item_ids])
        order = np.argsort(all_ids)
        stored = StoredVectors.joined([*held, added])[order]
        return FlatIndex(self.metric, read_only(all_ids[order]), stored, table, self.info)

    def remove(self, item_ids: Any) -> FlatIndex:
        """A new index without these items; ``ValueError`` names ids that it does not hold."""
        kept = np.ones(self.n_items, bool)
        kept[known_rows(self, item_ids)] = False
        table = self.item_table
        if table is not None:
            table = table[table["item_id"].isin(self.item_ids[kept])]
        left = read_only(self.item_ids[kept])
        return FlatIndex(self.metric, left, self.vectors[kept], table, self.info)

    def with_item_keys(self, column: str = "item_key") -> FlatIndex:
        """As of :meth:`Index.with_item_keys <merlin_poeem.Index.with_item_keys>`."""
        table, info = table_with_keys(self, column), {**self.info, INFO_KEY: True}
        return FlatIndex(self.metric, self.item_ids, self.vectors, table, info)

    def without_item_keys(self) -> FlatIndex:
        """The same index with its int64 ids at every edge; the table keeps ``item_key``."""
        info = {name: value for name, value in self.info.items() if name != INFO_KEY}
        return FlatIndex(self.metric, self.item_ids, self.vectors, self.item_table, info)


def _checked(
    item_ids: Any, vectors: Float32, dim: int | None, metric: Metric
) -> tuple[Int64, Float32]:
    """Ids and vectors as they may be stored: checked, and normalised where the metric is cosine."""
    item_ids = as_item_ids("item_ids", item_ids)
    check_unique("item_ids", item_ids)
    vectors = as_vectors("vectors", vectors, dim, largest=largest_value(metric))
    if len(item_ids) != len(vectors):
        raise ValueError(f"item_ids: expected {len(vectors)}, one a vector; got {len(item_ids)}")
    return item_ids, normalize(vectors) if metric == "cosine" else vectors


def _middle(vectors: Float32) -> Float32:
    """(dim,): what distances are counted from, so that squares lose the fewest digits."""
    if not len(vectors):
        return np.zeros(vectors.shape[1], np.float32)
    some = vectors[:: -(-len(vectors) // MIDDLE_ROWS)]
    return np.asarray(np.median(some, axis=0), np.float32)
