"""What is compared, and why a method is missing where one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.cpu_peers.built import Built
from benchmarks.cpu_peers.faiss_ivf_pq import open_faiss
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import Material
from benchmarks.cpu_peers.ours import open_ours, open_ours_refined
from benchmarks.cpu_peers.scann_tree import open_scann
from benchmarks.cpu_peers.usearch_hnsw import open_usearch

OPENERS: dict[str, Callable[[Material, Grid], Iterator[Built]]] = {
    "ours": open_ours,
    "ours-refined": open_ours_refined,
    "faiss": open_faiss,
    "scann": open_scann,
    "usearch": open_usearch,
}


def open_methods(
    names: Sequence[str], material: Material, grid: Grid
) -> tuple[list[Built], dict[str, str]]:
    """All that ``names``, of ``OPENERS``, build; and why others of them are missing."""
    built: list[Built] = []
    missing = {}
    for name in names:
        try:
            for each in OPENERS[name](material, grid):
                print(f"built {each.method}, {each.form}: {each.build_seconds:.1f} s", flush=True)
                built.append(each)
        except ImportError as error:
            missing[name] = str(error)
            print(f"missing: {name}: {error}", flush=True)
    return built, missing
