"""What our GPU search is measured beside; none of it has to be installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.search_gpu.backend import Backend, first_line
from benchmarks.search_gpu.cuvs_peers import open_cuvs_brute_force, open_cuvs_ivf_pq
from benchmarks.search_gpu.exact_peers import open_cupy, open_torch
from benchmarks.search_gpu.faiss_peers import open_faiss_cpu, open_faiss_gpu
from benchmarks.search_gpu.material import Material
from merlin_poeem import Index

EXACT_PEERS: dict[str, Callable[[Material], list[Backend]]] = {
    "cuvs brute_force": open_cuvs_brute_force,
    "torch exact": open_torch,
    "cupy exact": open_cupy,
}
INDEX_PEERS: dict[str, Callable[[Material, Index, Path], list[Backend]]] = {
    "cuvs ivf_pq": open_cuvs_ivf_pq,
    "faiss gpu": lambda material, index, _: open_faiss_gpu(material, index, use_cuvs=False),
    "faiss gpu (cuvs)": lambda material, index, _: open_faiss_gpu(material, index, use_cuvs=True),
    "faiss cpu": lambda _material, index, _: [open_faiss_cpu(index)],
}


def open_exact_peers(material: Material) -> list[Backend]:
    """Those that score float vectors; a printed line says why each other one cannot be had."""
    return _open(EXACT_PEERS, material)


def open_index_peers(material: Material, index: Index, folder: Path) -> list[Backend]:
    """Those that search ``index``; a printed line says why each other one cannot be had.

    Files that they read are put into ``folder``, and deleted.
    """
    return _open(INDEX_PEERS, material, index, folder)


def _open(openers: Mapping[str, Callable[..., list[Backend]]], *material: Any) -> list[Backend]:
    peers = []
    for name, opener in openers.items():
        try:
            peers += opener(*material)
        except Exception as error:  # whatever a foreign library raises, the others are measured
            print(f"missing: {name}: {first_line(error)}")
    return peers
