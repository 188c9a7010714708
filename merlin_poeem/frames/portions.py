"""A search of many queries on the host, one portion after the other, so that progress shows."""

from __future__ import annotations

from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.progress import Progress
from merlin_poeem.search.ragged import Candidates
from merlin_poeem.search.searcher import AnySearcher

PORTION = 1 << 14
"""Queries: seconds of a search, and many enough that what each portion begins with is little."""


def search_in_portions(
    searcher: AnySearcher, queries: Queries, options: SearchOptions, *, progress: bool
) -> Candidates:
    """:meth:`Queries.search`, in portions whether or not ``progress`` is shown.

    Products round by their number of rows, so that a portion's scores are those of its own search.
    A device takes all queries at once, and divides them itself.
    """
    n_queries = len(queries.vectors)
    if searcher.on_device or n_queries <= PORTION:
        return queries.search(searcher, options)
    found = []
    with Progress("search", n_queries, "queries", shown=progress) as bar:
        for start in range(0, n_queries, PORTION):
            found.append(queries.search(searcher, options, slice(start, start + PORTION)))
            bar.update(len(found[-1]))
    return Candidates.concatenated(found)
