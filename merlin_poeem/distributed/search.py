"""A Dask frame of queries in, a Dask frame of candidates out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np

from merlin_poeem.distributed.checks import meta_of
from merlin_poeem.distributed.merge import merge_candidates
from merlin_poeem.distributed.shards import Shard, is_sharded, load_shards
from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.frames.results import Form, results_frame
from merlin_poeem.frames.search_frame import search_with
from merlin_poeem.index.copies import fingerprint_of
from merlin_poeem.index.index import Index, stored_vectors
from merlin_poeem.index.item_keys import as_keys, keyed_table
from merlin_poeem.index.loading import load_index
from merlin_poeem.quantization.item_codes import ItemCodes
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.request import SearchRequest
from merlin_poeem.search.searcher import BACKENDS, ReferenceSearcher, Searcher, open_saved_searcher
from merlin_poeem.search.second_look import refine_candidates


def search_ddf(
    path: str | os.PathLike[str],
    ddf: Any,
    *,
    k: int,
    vectors: str | Sequence[str] = "embedding",
    query_id: str | None = None,
    exclude: Any = None,
    allow: Any = None,
    n_probes: int | None = None,
    refine: int | None = None,
    form: Form = "long",
    backend: str = "auto",
) -> Any:
    """:func:`~merlin_poeem.search_frame` of every partition of ``ddf``, on workers.

    Parameters
    ----------
    path
        A saved index, which each worker process opens once, whole; or the folder of an index that
        was split by :func:`~merlin_poeem.distributed.shard_index`: each shard is then opened
        on one worker, every partition is searched in all of them, and the best of what they find is
        what the whole index would have found. In a second look each shard scores those of the best
        of all that it holds. Every worker must see the path.
    ddf
        A Dask frame of queries, with pandas or cuDF partitions; empty ones are no error.
    k, vectors, query_id, exclude, allow, n_probes, refine, form
        As of ``search_frame``.
    backend
        As of :func:`~merlin_poeem.open_searcher`, chosen in each worker.

    Returns
    -------
    A Dask frame with a partition for each of ``ddf``'s, in their order, its columns those of
    ``search_frame`` and its index numbering the rows of each partition. Nothing is computed yet.
    What a worker that dies had opened or found is opened or found again on another.

    Raises
    ------
    TypeError, ValueError
        What ``search_frame`` refuses: at once where the columns tell it, and else when a partition
        is computed, as is an index or shard that was replaced since.
    FileNotFoundError, IndexFormatError
        What is at ``path`` is no index and no shards, or damaged.
    """
    lists = [name for name in (vectors, exclude, allow) if isinstance(name, str)]
    meta = meta_of(ddf, lists)
    if backend not in (*BACKENDS, "auto"):
        raise ValueError(
            f"backend: expected one of {', '.join((*BACKENDS, 'auto'))}; got {backend!r}"
        )
    path = Path(path).resolve()
    shards = load_shards(path) if is_sharded(path) else ()
    options = SearchOptions(
        k=k,
        vectors=vectors,
        query_id=query_id,
        exclude=exclude,
        allow=allow,
        n_probes=n_probes,
        refine=refine,
        form=form,
    )
    # Of no rows in no items: it checks what was asked for, and has the columns of the answer.
    index = _without_items(load_index(shards[0].path if shards else path))
    found_meta = search_with(ReferenceSearcher(index), meta, options)
    options = replace(options, refine=index.refine_of(options.k) if refine is None else refine)
    # A task of their own, which the others depend on: a set of items may have megabytes.
    shared = dask.delayed(options, traverse=False)
    if shards:
        looks_again = bool(options.refine)
        return _search_shards(shards, backend, index.dim, ddf, shared, found_meta, looks_again)
    saved = (str(path), fingerprint_of(path), backend)
    return ddf.map_partitions(_search_partition, saved, shared, meta=found_meta).clear_divisions()


def _without_items(index: Index) -> Index:
    none = ItemCodes(
        np.empty(0, np.int64),
        np.empty(0, np.int32),
        np.empty((0, index.params.pq_dim), index.quantization.code_dtype),
        np.empty(0, np.uint8) if index.quantization.has_scales else None,
    )
    of, no_vectors = (index.params, index.quantization), np.empty((0, index.dim), np.float32)
    # Those of the index are not read for it, and the dtype of none makes no difference.
    vectors = stored_vectors(*of, no_vectors, "float16") if index.has_vectors else None
    if not index.has_item_keys:
        return Index.from_codes(*of, none, vectors=vectors)
    keys = keyed_table(none.item_ids, as_keys("item_ids", []))
    return Index.from_codes(*of, none, vectors=vectors, item_table=keys).with_item_keys()


def _search_partition(frame: Any, saved: tuple[str, str, str], options: SearchOptions) -> Any:
    return search_with(open_saved_searcher(*saved), frame, options)


# Shards: a task reads the queries of a partition, one for each shard searches for them, and one
# merges what they find. For a second look, what is merged goes to each shard again, and what they
# make of it is merged.


class _OpenShard:
    """A shard as a value in Dask's hands.

    Dask knows how large it is: it keeps it on the worker that opened it, brings queries there, and
    counts it as that worker's memory. What is sent or spilled to disk is only where it is saved.
    """

    def __init__(self, shard: Shard, backend: str, n_bytes: int) -> None:
        self._shard, self._backend, self._n_bytes = shard, backend, n_bytes

    @classmethod
    def open(cls, shard: Shard, backend: str) -> _OpenShard:
        opened = cls(shard, backend, 0)
        index = opened.searcher.index
        arrays = (index.item_ids, index.packed_codes, index.scales, index.vectors)
        opened._n_bytes = sum(array.nbytes for array in arrays if array is not None)
        return opened

    @cached_property
    def searcher(self) -> Searcher:
        """Held, so that a process with more shards than it keeps open otherwise has them all."""
        return open_saved_searcher(self._shard.path, self._shard.fingerprint, self._backend)

    def __sizeof__(self) -> int:
        return self._n_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _OpenShard, (self._shard, self._backend, self._n_bytes)


def _search_shards(
    shards: Sequence[Shard],
    backend: str,
    dim: int,
    ddf: Any,
    options: Any,
    found_meta: Any,
    looks_again: bool,
) -> Any:
    # Pure: searches that are computed together share the opened shards.
    open_shard = dask.delayed(_OpenShard.open, pure=True)
    opened = [open_shard(shard, backend) for shard in shards]
    found = []
    for part in ddf.to_delayed():
        # Once for all shards, and on the host: they travel.
        queries = dask.delayed(Queries.read)(part, options, dim)
        of_shards = [dask.delayed(_search_shard)(shard, queries, options) for shard in opened]
        if looks_again:
            candidates = dask.delayed(_candidates)(options, of_shards)
            of_shards = [
                dask.delayed(_look_again)(shard, queries, options, candidates) for shard in opened
            ]
        found.append(dask.delayed(_answer)(queries, options, found_meta, of_shards))
    # Or else Dask turns lists into text.
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_delayed(found, meta=found_meta)


def _search_shard(shard: _OpenShard, queries: Queries, options: SearchOptions) -> Candidates:
    return queries.search(shard.searcher, _by_codes(options))


def _candidates(options: SearchOptions, of_shards: Sequence[Candidates]) -> Candidates:
    """What a second look is given: the best of all shards by their codes."""
    return merge_candidates(of_shards, _by_codes(options).k)


def _look_again(
    shard: _OpenShard, queries: Queries, options: SearchOptions, candidates: Candidates
) -> Candidates:
    """The best by their vectors of those ``candidates`` that the shard holds."""
    index, asked = shard.searcher.index, (options.k, options.n_probes, options.refine)
    request = SearchRequest.of(index, queries.vectors, *asked, exclude=None, allow=None)
    return refine_candidates(index, request.queries_rot, candidates, request.k)


def _by_codes(options: SearchOptions) -> SearchOptions:
    """The first look of such a search alone: for as many items as the second is given."""
    return replace(options, k=options.k * max(1, options.refine or 0), refine=0)


def _answer(
    queries: Queries, options: SearchOptions, found_meta: Any, of_shards: Sequence[Candidates]
) -> Any:
    """A frame like ``found_meta`` of the best of what the shards found."""
    merged = merge_candidates(of_shards, options.k)
    module = import_module(type(found_meta).__module__.partition(".")[0])
    return results_frame(module, options.form, queries.name, queries.ids, merged)
