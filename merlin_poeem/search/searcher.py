"""The protocol of every backend, and the one place that chooses between them."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias, get_args, overload

from merlin_poeem.arrays import Float32
from merlin_poeem.index.copies import MOST_OPEN, open_index
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.search import reference
from merlin_poeem.search.gpu.presence import has_visible_gpu
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.shown import Shown

Backend = Literal["gpu", "faiss", "reference"]

BACKENDS: tuple[str, ...] = get_args(Backend)

_lock = threading.Lock()
_told_of_idle_gpu = threading.Event()

logger = logging.getLogger(__name__)


class Searcher(Protocol):
    """An index opened for search by one backend."""

    index: Index
    backend: str
    """The backend that runs, such as ``"faiss"``."""

    on_device: bool
    """Whether it searches on a GPU: CuPy queries then give CuPy results, NumPy queries NumPy's."""

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """The ``k`` best items of the ``n_probes`` best lists of each query.

        Parameters
        ----------
        queries
            (n_queries, dim) float32, raw space, finite. CuPy arrays, here and in
            :class:`~merlin_poeem.IdLists`, only where the searcher is ``on_device``.
        k
            Results wanted per query; fewer come where the visited lists hold fewer.
        n_probes
            Lists visited, 1..n_lists; None takes the index's own default.
        refine
            The second look: the best ``refine * k`` items by their codes are scored again by the
            vectors that the index holds, and the ``k`` best of them returned, with those scores.
            0 looks at nothing twice; None takes the index's own default.
        exclude, allow
            Items never returned, or the only ones that may be. One list of item ids per query
            (:class:`~merlin_poeem.IdLists` or a sequence of sequences), or ids for all queries:
            an :class:`~merlin_poeem.ItemSet`, or any flat collection of integers (a list that is
            not empty, a set, range, array, Series or Index); each of the two as it likes.
            Where both name an item, it is not returned; an empty ``allow`` allows nothing. Ids that
            the index does not hold are no error. Applied during the scan: they do not eat into
            ``k``.

        Raises
        ------
        TypeError, ValueError
            Wrong dtype or shape, NaN or infinite queries, ``k`` below 1, ``n_probes`` out of range,
            ``refine`` below 0 or, where the index holds no vectors, above it, another number of id
            lists than queries, ids that are no integers.
        """
        ...


class FlatSearcher(Protocol):
    """A :class:`~merlin_poeem.FlatIndex` opened by one backend, as a :class:`Searcher` is."""

    index: FlatIndex
    backend: str
    on_device: bool

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """The ``k`` best of all items: ``Searcher.search``.

        ``n_probes`` has to be None, and ``refine`` 0 or None: ``ValueError`` otherwise.
        """
        ...


AnySearcher: TypeAlias = Searcher | FlatSearcher


class FlatReferenceSearcher(Shown):
    """The NumPy definition of the search of a flat index, behind the protocol."""

    backend = "reference"
    on_device = False

    def __init__(self, index: FlatIndex) -> None:
        self.index = index

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`FlatSearcher.search`."""
        return reference.search_flat(
            self.index,
            queries,
            k=k,
            n_probes=n_probes,
            refine=refine,
            exclude=exclude,
            allow=allow,
        )


class ReferenceSearcher(Shown):
    """The NumPy definition behind the protocol: exact, slow, for tests and small catalogs."""

    backend = "reference"
    on_device = False

    def __init__(self, index: Index) -> None:
        self.index = index

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`Searcher.search`."""
        return reference.search(
            self.index,
            queries,
            k=k,
            n_probes=n_probes,
            refine=refine,
            exclude=exclude,
            allow=allow,
        )


@overload
def open_searcher(
    index: Index, backend: str = "auto", *, vectors_on_device: bool = True
) -> Searcher: ...


@overload
def open_searcher(
    index: FlatIndex, backend: str = "auto", *, vectors_on_device: bool = True
) -> FlatSearcher: ...


def open_searcher(
    index: Index | FlatIndex, backend: str = "auto", *, vectors_on_device: bool = True
) -> Searcher | FlatSearcher:
    """Open ``index`` for search.

    ``backend`` is ``"gpu"``, ``"faiss"``, ``"reference"`` or ``"auto"``: the GPU where there is one
    that holds the index, else Faiss. A backend that was named and is not there is an error that
    says what it lacks (``ImportError``, and ``RuntimeError`` for a GPU): none is ever replaced by
    another in silence.

    What ``"auto"`` took is what the searcher shows, in a notebook or by ``print``, and its
    ``searcher.backend``. The choice and its reason are logged at INFO, which nobody sees unasked: a
    machine without a GPU has nothing to be told. At WARNING, once a process, where the machine has
    a GPU and Faiss runs: CuPy may be missing or the index too large, and searches are then much
    slower than they could be. ``CUDA_VISIBLE_DEVICES=""`` says that this is meant.

    ``vectors_on_device`` tells the GPU whether to copy the vectors of an index that holds some, see
    :class:`~merlin_poeem.search.gpu.searcher.GpuSearcher`. The other backends have them in the
    host's memory whatever it says, and a flat index is always copied.
    """
    if backend == "auto":
        return _open_best(index, vectors_on_device)
    if backend not in BACKENDS:
        raise ValueError(
            f"backend: expected one of {', '.join((*BACKENDS, 'auto'))}; got {backend!r}"
        )
    if isinstance(index, FlatIndex):
        return _open_flat(index, backend)
    if backend == "reference":
        return ReferenceSearcher(index)
    if backend == "faiss":
        from merlin_poeem.search.faiss.searcher import FaissSearcher

        return FaissSearcher(index)
    from merlin_poeem.search.gpu.searcher import GpuSearcher

    return GpuSearcher(index, vectors_on_device=vectors_on_device)


def open_saved_searcher(path: str, fingerprint: str, backend: str) -> Searcher:
    """A searcher on :func:`~merlin_poeem.index.copies.open_index`, opened once a process."""
    with _lock:
        return _saved_searcher(path, fingerprint, backend)


@lru_cache(maxsize=MOST_OPEN)
def _saved_searcher(path: str, fingerprint: str, backend: str) -> Searcher:
    return open_searcher(open_index(path, fingerprint), backend)


def _open_flat(index: FlatIndex, backend: str) -> FlatSearcher:
    if backend == "reference":
        return FlatReferenceSearcher(index)
    if backend == "faiss":
        from merlin_poeem.search.faiss.flat import FlatFaissSearcher

        return FlatFaissSearcher(index)
    from merlin_poeem.search.gpu.flat import FlatGpuSearcher

    return FlatGpuSearcher(index)


def _open_best(index: Index | FlatIndex, vectors_on_device: bool) -> Searcher | FlatSearcher:
    try:
        searcher = open_searcher(index, "gpu", vectors_on_device=vectors_on_device)
    except (ImportError, RuntimeError, ValueError, MemoryError) as error:
        return _open_faiss(index, error)
    logger.info("search backend: gpu")
    return searcher


def _open_faiss(index: Index | FlatIndex, not_gpu: Exception) -> Searcher | FlatSearcher:
    """Faiss, and told why it is ``not_gpu``."""
    try:
        searcher = open_searcher(index, "faiss")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; before it, backend 'auto' tried the GPU: {not_gpu}. Small catalogs can do "
            "with backend='reference', which needs neither",
            name=error.name,
        ) from error
    # What refuses this index has found a GPU.
    is_gpu_idle = isinstance(not_gpu, ValueError | MemoryError) or has_visible_gpu()
    level = logging.WARNING if is_gpu_idle and not _told_of_idle_gpu.is_set() else logging.INFO
    if is_gpu_idle:
        _told_of_idle_gpu.set()
    logger.log(level, "search backend: faiss, not gpu: %s", not_gpu)
    return searcher
