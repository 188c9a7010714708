"""Who says what the right answer is."""

from __future__ import annotations

from importlib.util import find_spec

import merlin_poeem
from benchmarks.search_gpu.backend import Backend, read_candidates
from benchmarks.search_gpu.faiss_peers import open_faiss_cpu
from merlin_poeem import Index
from merlin_poeem.search import reference

# Of larger indexes Faiss makes another copy, for minutes; the definition takes them as they are.
MOST_ITEMS_OF_FAISS = 5_000_000
JUDGED_BY_FAISS, JUDGED_BY_DEFINITION = 64, 8


def open_judge(index: Index) -> tuple[Backend, int]:
    """Our CPU backend, or else the definition; and how many queries it has the time for."""
    if find_spec("faiss") is not None and index.n_items <= MOST_ITEMS_OF_FAISS:
        return open_faiss_cpu(index), JUDGED_BY_FAISS
    definition = Backend(
        "reference",
        merlin_poeem.__version__,
        lambda queries, k, n_probes: reference.search(index, queries, k=k, n_probes=n_probes),
        read_candidates,
        on_device=False,
    )
    return definition, JUDGED_BY_DEFINITION
