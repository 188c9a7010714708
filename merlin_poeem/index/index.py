"""Index: encoded items grouped by list; searched, extended and reduced without retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import (
    Float32,
    Int32,
    Int64,
    as_item_ids,
    as_vectors,
    largest_value,
    normalize,
    owned,
    read_only,
)
from merlin_poeem.index import list_lengths
from merlin_poeem.index.held_items import (
    HeldItems,
    check_each_once,
    known_rows,
    numbered_additions,
    numbered_items,
    other_table,
    refuse_held,
    table_with,
    table_with_keys,
)
from merlin_poeem.index.item_keys import INFO_KEY, check_info
from merlin_poeem.index.item_table import check_item_table, check_rows
from merlin_poeem.index.list_lengths import Coded, Float64
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization, pack_codes, unpack_codes
from merlin_poeem.quantization.origin import middle_of
from merlin_poeem.quantization.params import IVFPQParams, Metric, check_n_probes
from merlin_poeem.quantization.stored_vectors import StoredVectors, VectorDtype, check_vector_dtype

if TYPE_CHECKING:
    import pandas as pd

Rows = Int64 | slice | NDArray[np.bool_]
LoadArray = Callable[[], NDArray[Any]]
LoadOptionalArray = Callable[[], NDArray[Any] | None]
LoadItemTable = Callable[[], "pd.DataFrame | None"]
LoadVectors = Callable[[], StoredVectors]

DEFAULT_REFINE = 4
"""Of an index with vectors, whose ``params.refine`` is None."""
MOST_BY_DEFAULT = 2048
"""Candidates that are looked at again then: as many as a GPU returns."""


def no_list_lengths() -> None:
    """The loader of an index whose lists score ⟨q, c⟩ alone, whatever becomes of it."""


class Index(HeldItems):
    """The items of a catalog, quantized and grouped by list.

    Immutable: :meth:`extend` and :meth:`remove` return a new one, and searchers opened on the old
    one stay valid. Rows are sorted by list and, within a list, by item id, which is the order that
    equal scores come in. Its arrays are read-only. Make one with :meth:`from_codes` (from a trained
    model's export), :meth:`from_vectors` or :func:`~merlin_poeem.load_index`.
    """

    def __init__(
        self,
        params: IVFPQParams,
        quantization: Quantization,
        list_offsets: Int64,
        load_item_ids: LoadArray,
        load_packed_codes: LoadArray,
        load_scales: LoadOptionalArray = lambda: None,
        load_list_lengths: LoadOptionalArray | None = None,
        load_item_table: LoadItemTable = lambda: None,
        info: Mapping[str, Any] | None = None,
        load_vectors: LoadVectors | None = None,
    ) -> None:
        check_agreement(params, quantization)
        if params.refine and load_vectors is None:
            raise ValueError(
                f"refine: expected 0 or None in an index without vectors, got {params.refine}"
            )
        self.params = params
        self.quantization = quantization
        self.list_offsets: Int64 = owned(list_offsets)
        """(n_lists + 1,) int64: list l holds the rows ``list_offsets[l]:list_offsets[l + 1]``."""
        self.info: dict[str, Any] = deepcopy(dict(info or {}))
        """Free JSON values saved with the index, such as how the model was trained."""
        self._load_item_ids = load_item_ids
        self._load_packed_codes = load_packed_codes
        self._load_scales = load_scales
        self._load_list_lengths = load_list_lengths
        self._load_item_table = load_item_table
        self._load_vectors = load_vectors

    @classmethod
    def from_codes(
        cls,
        params: IVFPQParams,
        quantization: Quantization,
        item_codes: ItemCodes,
        *,
        vectors: StoredVectors | None = None,
        item_table: pd.DataFrame | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Index:
        """Group exported codes by list. Nothing is trained or encoded.

        ``vectors`` are those of the items, in the order of ``item_codes``, as
        ``stored_vectors`` makes them. ``item_table`` and ``info`` are copied.

        Raises
        ------
        TypeError
            ``item_table`` is no pandas frame, or its ``item_id`` no integers.
        ValueError
            ``params``, ``quantization``, ``item_codes`` and ``vectors`` do not agree, or there are
            scales or a ``query_rotation`` where the metric is l2, or the latter without scales
            where it is cosine. ``item_table`` has no ``item_id``, rows that repeat one
            or are about other items, a column whose name is no text or repeats, or one that would
            come back from a saved index with another dtype. An item may have no row. ``info`` has a
            key ``"item_keys"``, and no keys are in the table.
        """
        check_info(info, item_table)
        return cls._grouped(params, quantization, item_codes, vectors, item_table, info)

    @classmethod
    def _grouped(
        cls,
        params: IVFPQParams,
        quantization: Quantization,
        item_codes: ItemCodes,
        vectors: StoredVectors | None,
        item_table: pd.DataFrame | None,
        info: Mapping[str, Any] | None,
        load_list_lengths: LoadOptionalArray | None = None,
    ) -> Index:
        """:meth:`from_codes`; without ``load_list_lengths``, they are those of the items."""
        check_agreement(params, quantization)
        item_codes.check_against(quantization)
        order = np.lexsort((item_codes.item_ids, item_codes.list_ids))
        counts = np.bincount(item_codes.list_ids, minlength=params.n_lists)
        list_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        item_ids = read_only(item_codes.item_ids[order])
        codes = item_codes.codes[order].astype(quantization.code_dtype, copy=False)
        packed = read_only(pack_codes(codes, params.pq_bits))
        scales = None if item_codes.scales is None else read_only(item_codes.scales[order])
        load_vectors = None
        if vectors is not None:
            check_stored(params, quantization, vectors, len(item_codes))
            in_order = vectors[order]
            load_vectors = lambda: in_order  # noqa: E731
        if item_table is not None:
            item_table = check_item_table(item_table)
            check_rows(item_table, item_ids, "the index's items")
        return cls(
            params,
            quantization,
            list_offsets,
            lambda: item_ids,
            lambda: packed,
            lambda: scales,
            load_list_lengths,
            lambda: item_table,
            info,
            load_vectors,
        )

    @classmethod
    def from_vectors(
        cls,
        params: IVFPQParams,
        quantization: Quantization,
        item_ids: Any,
        vectors: Float32,
        *,
        store_vectors: VectorDtype | None = None,
        item_table: pd.DataFrame | None = None,
        info: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> Index:
        """Encode raw (n, dim) float32 ``vectors`` with a trained quantization and group them.

        ``store_vectors`` keeps the vectors too, in ``"float16"`` (2 bytes a dimension) or
        ``"int8"`` (1), and 4 bytes an item: searches can then look at their best candidates again
        (``refine``). With ``progress``, work of more than two seconds shows a bar on stderr.

        ``item_ids`` are integers, or texts: those become the index's ``item_keys``, and stand for
        its items at every edge, in the ``item_id`` of ``item_table`` too.

        Raises ``TypeError`` or ``ValueError`` on vectors or ids that :meth:`extend` would refuse,
        and tables that :meth:`from_codes` would.
        """
        item_ids, item_table, info = numbered_items(item_ids, item_table, info)
        item_codes = encode_items(params, quantization, item_ids, vectors, progress=progress)
        kept = None
        if store_vectors is not None:
            kept = stored_vectors(params, quantization, vectors, store_vectors)
        return cls.from_codes(
            params, quantization, item_codes, vectors=kept, item_table=item_table, info=info
        )

    def __len__(self) -> int:
        return self.n_items

    def __repr__(self) -> str:
        p = self.params
        return (
            f"Index(n_items={self.n_items}, dim={self.dim}, n_lists={p.n_lists}, "
            f"pq_dim={p.pq_dim}, pq_bits={p.pq_bits}, metric={p.metric!r}, n_probes={p.n_probes})"
        )

    @property
    def n_items(self) -> int:
        """Items held."""
        return int(self.list_offsets[-1])

    @property
    def metric(self) -> Metric:
        """``params.metric``."""
        return self.params.metric

    @property
    def n_lists(self) -> int:
        """Lists, empty ones included."""
        return self.params.n_lists

    @property
    def dim(self) -> int:
        """Width of the raw vectors."""
        return self.quantization.dim

    @property
    def list_sizes(self) -> Int64:
        """(n_lists,) int64, items per list."""
        return np.diff(self.list_offsets)

    @cached_property
    def item_ids(self) -> Int64:  # type: ignore[override]  # reads as the attribute that it becomes
        """(n_items,) int64. Of a saved index: read, and its checksum tested, on first use."""
        return owned(self._load_item_ids())

    @cached_property
    def packed_codes(self) -> NDArray[np.unsignedinteger]:
        """(n_items, width) codes as stored, 4-bit ones two to a byte; read on first use."""
        return owned(self._load_packed_codes())

    @cached_property
    def scales(self) -> NDArray[np.uint8] | None:
        """(n_items,) uint8, entries of the quantization's ``scale_table``; read on first use.

        None where the quantization has no scales.
        """
        scales = self._load_scales()
        return None if scales is None else owned(scales)

    @property
    def list_lengths(self) -> Float32 | None:
        """(n_lists,) float32, the mean length of what each list's items are decoded as, rotated.

        Of an empty list its centroid's. None unless the metric is the inner product, or cosine in
        a stretched space, and in an index that was saved by a release that knew none.
        """
        lengths = self.list_lengths64
        return None if lengths is None else read_only(lengths.astype(np.float32))

    @cached_property
    def list_factors(self) -> Float32 | None:
        """(n_lists,) float32, what ⟨q, c⟩ is multiplied with in a list's score; None: with 1.

        A centroid c, a mean, is the shorter the wider its items are spread, and their list would be
        visited too late: its ``list_lengths`` / ‖c‖ makes up for that. 0 where c is zero.
        """
        lengths = self.list_lengths64
        return None if lengths is None else list_lengths.factors_of(self.quantization, lengths)

    @property
    def has_list_lengths(self) -> bool:
        """Whether there are ``list_lengths`` where they tell of lists."""
        return self._load_list_lengths is not no_list_lengths

    @cached_property
    def list_lengths64(self) -> Float64 | None:
        """``list_lengths`` as saved: means that stay exact however often items come and go."""
        if not list_lengths.tell_of_lists(self.params.metric, self.quantization):
            return None
        if self._load_list_lengths is not None:
            lengths = self._load_list_lengths()
            return None if lengths is None else owned(lengths)
        coded = self.list_ids, self.codes, self.scales
        return list_lengths.mean_lengths(self.quantization, coded, self.list_sizes)

    @property
    def has_vectors(self) -> bool:
        """Whether there are ``vectors``."""
        return self._load_vectors is not None

    @cached_property
    def vectors(self) -> StoredVectors | None:
        """The items' own vectors, (n_items, dim), for a second look; read on first use.

        None in an index without.
        """
        return None if self._load_vectors is None else self._load_vectors()

    @property
    def refine(self) -> int:
        """``params.refine``, or 4 where that is None and there are ``vectors``.

        Of searches of up to 512 results; :meth:`refine_of` knows of more.
        """
        if self.params.refine is not None:
            return self.params.refine
        return DEFAULT_REFINE if self.has_vectors else 0

    def refine_of(self, k: int) -> int:
        """What a search of ``k`` results that names no ``refine`` takes.

        ``params.refine``; where that is None and there are ``vectors`` 4, or for a ``k`` above 512
        as many times it as are 2,048 candidates, but no less than once.
        """
        if self.params.refine is not None or not self.has_vectors:
            return self.refine
        return max(1, min(DEFAULT_REFINE, MOST_BY_DEFAULT // k))

    @cached_property
    def item_table(self) -> pd.DataFrame | None:  # type: ignore[override]
        """Optional columns about the items, such as titles, with an ``item_id`` column."""
        return self._load_item_table()

    @property
    def codes(self) -> NDArray[np.unsignedinteger]:
        """(n_items, pq_dim) codes, one a column."""
        return unpack_codes(self.packed_codes, self.params.pq_dim, self.params.pq_bits)

    @cached_property
    def list_ids(self) -> Int32:
        """(n_items,) int32, the list of each row."""
        return read_only(np.repeat(np.arange(self.n_lists, dtype=np.int32), self.list_sizes))

    @property
    def item_codes(self) -> ItemCodes:
        """The rows as :class:`ItemCodes`."""
        return ItemCodes(self.item_ids, self.list_ids, self.codes, self.scales)

    def coded(self, rows: Rows) -> Coded:
        """What ``quantization.coding.decode`` takes, of some rows.

        List ids (n,) int32, codes (n, pq_dim) and scales, (n,) uint8 or None.
        """
        codes = unpack_codes(self.packed_codes[rows], self.params.pq_dim, self.params.pq_bits)
        return self.list_ids[rows], codes, None if self.scales is None else self.scales[rows]

    def rows_of(self, item_ids: Int64) -> Int64:
        """Row of each id, −1 where the index does not hold it. (n,) int64 in, (n,) int64 out."""
        if not self.n_items:
            return np.full(len(item_ids), -1, np.int64)
        position = np.searchsorted(self.item_ids, item_ids, sorter=self._rows_by_id)
        rows = self._rows_by_id[np.minimum(position, self.n_items - 1)]
        return np.where(self.item_ids[rows] == item_ids, rows, -1)

    def decode(self, item_ids: Any) -> Float32:
        """Reconstructions (n, dim) float32, raw space, of items held; ``ValueError`` on others."""
        return coding.decode(self.quantization, *self.coded(known_rows(self, item_ids)))

    def vectors_of(self, item_ids: Any) -> Float32:
        """Stored vectors (n, dim) float32, raw space, of unit length for cosine, of items held.

        ``ValueError`` on others, and where the index holds no vectors.
        """
        rows = known_rows(self, item_ids)
        if self.vectors is None:
            raise ValueError("index: expected one with vectors, got one without")
        decoded = self.vectors.decoded(rows)
        if self.vectors.origin is not None:
            decoded += self.vectors.origin
        return self.quantization.rotate_back(decoded)

    def extend(
        self, item_ids: Any, vectors: Float32, *, item_table: pd.DataFrame | None = None
    ) -> Index:
        """A new index that also holds these items, encoded with the same, frozen quantization.

        Parameters
        ----------
        item_ids
            (n,) integers that fit in int64, or the keys of an index that has keys; none held
            already.
        vectors
            (n, dim) float32, raw space.
        item_table
            Rows about added items, each at most once, with the columns of ``self.item_table``;
            only with an index that has one. Of an index with keys, its ``item_id`` are keys.
            A column keeps its dtype, save that integers and bools become nullable ones where nulls
            are added, and categories of text those of both.

        Raises
        ------
        TypeError, ValueError
            Wrong dtype or shape, NaN, values above 1e15 in size unless the metric is cosine,
            repeated ids, or ids already held; a table that :meth:`from_codes` would refuse, rows
            about items that are not added, columns that are missing or unknown, or values that the
            dtype of their column can't hold unchanged.
        """
        item_ids, item_table = numbered_additions(self, item_ids, item_table)
        added = encode_items(self.params, self.quantization, item_ids, vectors)
        kept = self.vectors
        refuse_held(self, added.item_ids)
        table = table_with(self, item_table, added.item_ids)
        merged = ItemCodes(
            read_only(np.concatenate([self.item_ids, added.item_ids])),
            read_only(np.concatenate([self.list_ids, added.list_ids])),
            read_only(np.concatenate([self.codes, added.codes])),
            None if self.scales is None else read_only(np.concatenate([self.scales, added.scales])),
        )
        if kept is not None:
            more = stored_vectors(self.params, self.quantization, vectors, kept.dtype)
            kept = StoredVectors.joined([kept, more])
        coded = added.list_ids, added.codes, added.scales
        return self._with_items(merged, kept, table, self._lengths_with(1, coded))

    def remove(self, item_ids: Any) -> Index:
        """A new index without these items; ``ValueError`` names ids that it does not hold."""
        rows = known_rows(self, item_ids)
        kept = np.ones(self.n_items, bool)
        kept[rows] = False
        item_table = self.item_table
        if item_table is not None:
            removed = self.item_ids[rows]
            item_table = item_table[~item_table["item_id"].isin(removed)]
        codes = ItemCodes(self.item_ids[kept], *self.coded(kept))
        vectors = None if self.vectors is None else self.vectors[kept]
        lengths = self._lengths_with(-1, self.coded(~kept))
        return self._with_items(codes, vectors, item_table, lengths)

    def part(self, rows: slice) -> Index:
        """A new index of some rows, whose searches visit the lists that a search of all would.

        ``list_lengths`` are therefore those of the whole.
        """
        codes, table = ItemCodes(self.item_ids[rows], *self.coded(rows)), self.item_table
        if table is not None:
            table = table[table["item_id"].isin(codes.item_ids)]
        vectors = None if self.vectors is None else self.vectors[rows]
        return self._with_items(codes, vectors, table, self.list_lengths64)

    def with_n_probes(self, n_probes: int) -> Index:
        """The same index with another default ``n_probes``; arrays are shared."""
        return self._with(replace(self.params, n_probes=check_n_probes(n_probes, self.n_lists)))

    def with_refine(self, refine: int | None) -> Index:
        """The same index with another default ``refine``; arrays are shared.

        ``ValueError`` below 0, and above 0 where it holds no vectors.
        """
        return self._with(replace(self.params, refine=refine))

    def with_vectors(
        self, item_ids: Any, vectors: Float32, store_vectors: VectorDtype = "float16"
    ) -> Index:
        """The same index with its items' own vectors, for a second look; codes are shared.

        Parameters
        ----------
        item_ids
            (n,) integers or keys, each once: all items of the index, and no others, in any order.
        vectors
            (n, dim) float32, raw space.
        store_vectors
            As of :meth:`from_vectors`.

        Raises
        ------
        TypeError, ValueError
            Vectors that :meth:`from_vectors` would refuse; ids that repeat, that the index does not
            hold, or that are missing.
        """
        check_each_once(self, item_ids)
        given = stored_vectors(self.params, self.quantization, vectors, store_vectors)
        rows = known_rows(self, item_ids)
        if len(rows) != self.n_items:
            raise ValueError(
                f"item_ids: expected all {self.n_items} items of the index, got {len(rows)}"
            )
        if len(given) != len(rows):
            raise ValueError(f"item_ids: expected {len(given)}, one a vector; got {len(rows)}")
        in_order = given[np.argsort(rows)]
        return self._with(self.params, load_vectors=lambda: in_order)

    def without_vectors(self) -> Index:
        """The same index without ``vectors``, whose searches look at nothing twice."""
        return self._with(replace(self.params, refine=None), load_vectors=None)

    def with_metric(self, metric: Metric) -> Index:
        """The same lists and codes, searched by another metric; arrays are shared.

        Worth a trial with the codes of a model that scores by cosine: their reconstructions are the
        shorter, the less certain, and ``"inner_product"`` trusts those less. Which one finds more
        depends on the data, see docs/trials.md. What is added to it is no longer normalised here:
        give :meth:`extend` vectors of length 1. With scales the two find the same items, save for
        the lists that they visit. ``ValueError`` for an unknown metric, for l2 with scales or a
        ``query_rotation``, for cosine with the latter and no scales, and where there are vectors
        for all but from cosine to the inner product: others compare vectors that are stored
        otherwise.
        """
        kept = metric == self.metric or (self.metric, metric) == ("cosine", "inner_product")
        if self.has_vectors and not kept:
            raise ValueError(
                f"metric: expected one that compares vectors as {self.params.metric} does, got "
                f"{metric!r}; without_vectors() gives an index that can be searched by it"
            )
        return self._with(replace(self.params, metric=metric))

    def without_list_lengths(self) -> Index:
        """The same index, whose lists score ⟨q, c⟩ alone, as in others' files; arrays shared."""
        return self._with(self.params, load_list_lengths=no_list_lengths)

    def with_item_table(self, item_table: pd.DataFrame | None) -> Index:
        """The same index with a copy of another table, or None; arrays are shared.

        The table that it had is not read, so that one that is refused can be put right. Raises as
        :meth:`from_codes` does.
        """
        item_table = other_table(self, item_table)
        if item_table is not None:
            item_table = check_item_table(item_table)
            check_rows(item_table, self.item_ids, "the index's items")
        return self._with(self.params, lambda: item_table)

    def with_item_keys(self, column: str = "item_key") -> Index:
        """The same index with the texts of a column of its table for ``item_keys``.

        They stand for its items from here on in frames, tables and methods. The column is kept as
        ``item_key``. ``TypeError`` or ``ValueError`` where it is missing, no text, null or
        repeated, where an item has no row, or an id is below 0.
        """
        table = table_with_keys(self, column)
        return self._with(self.params, lambda: table, info={**self.info, INFO_KEY: True})

    def without_item_keys(self) -> Index:
        """The same index with its int64 ids at every edge; the table keeps ``item_key``."""
        info = {name: value for name, value in self.info.items() if name != INFO_KEY}
        return self._with(self.params, info=info)

    def _with_items(
        self,
        item_codes: ItemCodes,
        vectors: StoredVectors | None,
        item_table: pd.DataFrame | None,
        lengths: Float64 | None,
    ) -> Index:
        return Index._grouped(
            self.params,
            self.quantization,
            item_codes,
            vectors,
            item_table,
            self.info,
            self._loader_of(lambda: lengths),
        )

    def _loader_of(self, load: LoadOptionalArray) -> LoadOptionalArray | None:
        if not self.has_list_lengths:
            return no_list_lengths
        # By other metrics lists have none; with the inner product again, they are the items'.
        tell = list_lengths.tell_of_lists(self.params.metric, self.quantization)
        return load if tell else None

    def _lengths_with(self, sign: int, coded: Coded) -> Float64 | None:
        """``list_lengths64`` with these items more (sign 1) or less (−1)."""
        lengths = self.list_lengths64
        if lengths is None:
            return None
        sizes = self.list_sizes
        return list_lengths.changed_lengths(self.quantization, lengths, sizes, coded, sign)

    def _with(
        self,
        params: IVFPQParams,
        load_item_table: LoadItemTable | None = None,
        load_list_lengths: LoadOptionalArray | None = None,
        *,
        load_vectors: LoadVectors | Literal["same"] | None = "same",
        info: Mapping[str, Any] | None = None,
    ) -> Index:
        if load_vectors == "same":
            load_vectors = None if self._load_vectors is None else self._shared_vectors
        return Index(
            params,
            self.quantization,
            self.list_offsets,
            lambda: self.item_ids,
            lambda: self.packed_codes,
            lambda: self.scales,
            load_list_lengths or self._loader_of(lambda: self.list_lengths64),
            load_item_table or (lambda: self.item_table),
            self.info if info is None else info,
            load_vectors,
        )

    def _shared_vectors(self) -> StoredVectors:
        assert self.vectors is not None
        return self.vectors

    @cached_property
    def _rows_by_id(self) -> Int64:
        return np.argsort(self.item_ids, kind="stable")


def encode_items(
    params: IVFPQParams,
    quantization: Quantization,
    item_ids: Any,
    vectors: Float32,
    *,
    progress: bool = False,
) -> ItemCodes:
    """Encode raw (n, dim) float32 item vectors, normalised first where the metric is cosine."""
    check_agreement(params, quantization)
    item_ids = as_item_ids("item_ids", item_ids)
    largest = largest_value(params.metric)
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=largest)
    if len(item_ids) != len(vectors):
        raise ValueError(f"item_ids: expected {len(vectors)}, one a vector; got {len(item_ids)}")
    if params.metric == "cosine":
        vectors = normalize(vectors)
    list_ids, codes = coding.encode(quantization, vectors, progress=progress)
    scales = None
    if quantization.has_scales:
        scales = coding.scales_of(quantization, vectors, list_ids, codes)
    return ItemCodes(item_ids, list_ids, codes, scales)


def check_agreement(params: IVFPQParams, quantization: Quantization) -> None:
    """``ValueError`` where the parameters describe another quantization.

    Or where the metric can't do with its scales or its ``query_rotation``.
    """
    for name in ("n_lists", "pq_dim", "pq_bits"):
        expected, got = getattr(params, name), getattr(quantization, name)
        if expected != got:
            raise ValueError(f"quantization: expected {name} = {expected} (params), got {got}")
    # A factor about the origin says nothing of distances.
    if params.metric == "l2" and quantization.has_scales:
        raise ValueError("quantization: expected no scale_range where the metric is l2, got one")
    if quantization.query_rotation is not None:
        _check_stretched(params, quantization)


def _check_stretched(params: IVFPQParams, quantization: Quantization) -> None:
    # A stretched space keeps inner products, and neither distances nor lengths.
    if params.metric == "l2":
        raise ValueError("quantization: expected no query_rotation where the metric is l2, got one")
    if params.metric == "cosine" and not quantization.has_scales:
        raise ValueError(
            "quantization: expected a scale_range beside the query_rotation where the metric is "
            "cosine, got none"
        )


def stored_vectors(
    params: IVFPQParams, quantization: Quantization, vectors: Float32, dtype: VectorDtype
) -> StoredVectors:
    """Raw (n, dim) float32 item vectors as an index of ``params`` stores them.

    Raises ``TypeError`` or ``ValueError`` as :func:`encode_items`, and on another ``dtype``.
    """
    dtype = check_vector_dtype(dtype)
    largest = largest_value(params.metric)
    vectors = as_vectors("vectors", vectors, quantization.dim, largest=largest)
    if params.metric == "cosine":
        vectors = normalize(vectors)
    return StoredVectors.of(quantization.rotate(vectors), dtype, origin_of(params, quantization))


def origin_of(params: IVFPQParams, quantization: Quantization) -> Float32 | None:
    """What an index of ``params`` counts its stored vectors from: a value under l2 only."""
    return middle_of(quantization) if params.metric == "l2" else None


def check_stored(
    params: IVFPQParams, quantization: Quantization, vectors: StoredVectors, n_items: int
) -> None:
    """``ValueError`` where ``vectors`` are not (n_items, dim) or count from elsewhere."""
    if vectors.values.shape != (n_items, quantization.dim):
        raise ValueError(
            f"vectors: expected shape ({n_items}, {quantization.dim}), got {vectors.values.shape}"
        )
    origin = origin_of(params, quantization)
    if origin is None or vectors.origin is None:
        same = origin is vectors.origin
    else:
        same = np.array_equal(origin, vectors.origin)
    if not same:
        raise ValueError(
            "vectors: expected them counted from the middle of the quantization where the metric "
            "is l2, and from zero otherwise"
        )
