"""The protocol of every backend, and the one place that chooses between them."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol, get_args

from merlin_poeem import reference
from merlin_poeem.arrays import Float32
from merlin_poeem.index import Index
from merlin_poeem.ragged import Candidates

Backend = Literal["faiss", "reference"]

BACKENDS: tuple[str, ...] = get_args(Backend)

logger = logging.getLogger(__name__)


class Searcher(Protocol):
    """An index opened for search by one backend."""

    index: Index
    backend: str
    """The backend that runs, such as ``"faiss"``."""

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """The ``k`` best items of the ``n_probes`` best lists of each query.

        Parameters
        ----------
        queries
            (n_queries, dim) float32, raw space, finite.
        k
            Results wanted per query; fewer come where the visited lists hold fewer.
        n_probes
            Lists visited, 1..n_lists; None takes the index's own default.
        exclude, allow
            One list of item ids per query (:class:`~merlin_poeem.ragged.IdLists` or a sequence of
            sequences): items never returned, or the only ones that may be. Ids that the index does
            not hold are no error. Applied during the scan: they do not eat into ``k``.

        Raises
        ------
        TypeError, ValueError
            Wrong dtype or shape, NaN or infinite queries, ``k`` below 1, ``n_probes`` out of range,
            another number of id lists than queries.
        """
        ...


class ReferenceSearcher:
    """The NumPy definition behind the protocol: exact, slow, for tests and small catalogs."""

    backend = "reference"

    def __init__(self, index: Index) -> None:
        self.index = index

    def search(
        self,
        queries: Float32,
        *,
        k: int,
        n_probes: int | None = None,
        exclude: Any = None,
        allow: Any = None,
    ) -> Candidates:
        """See :meth:`Searcher.search`."""
        return reference.search(
            self.index, queries, k=k, n_probes=n_probes, exclude=exclude, allow=allow
        )


def open_searcher(index: Index, backend: str = "auto") -> Searcher:
    """Open ``index`` for search.

    ``backend`` is ``"faiss"``, ``"reference"`` or ``"auto"`` (Faiss; the choice is logged). A
    backend that is not installed is an ``ImportError`` that says what to install: none is ever
    replaced by another in silence; ``searcher.backend`` says which one runs.
    """
    if backend == "auto":
        backend = "faiss"
        logger.info("search backend: faiss")
    if backend == "reference":
        return ReferenceSearcher(index)
    if backend == "faiss":
        from merlin_poeem.search.cpu import FaissSearcher

        return FaissSearcher(index)
    raise ValueError(f"backend: expected one of {', '.join((*BACKENDS, 'auto'))}; got {backend!r}")
