"""The program that ``profiler.py`` profiles: one scan and one bulk search of a large batch."""

from __future__ import annotations

from benchmarks.card_check.opened import Opened
from benchmarks.card_check.points import SMALL
from merlin_poeem.search.gpu.device import CupyDevice

BATCH, N_PROBES, K = 16384, 8, 100


def main() -> None:
    """Search once in each way."""
    device = CupyDevice()
    opened = Opened(device, SMALL, BATCH)
    for way in ("scan", "bulk"):
        opened.searcher(way).search_padded(opened.query_sets[0], k=K, n_probes=N_PROBES)
    device.synchronize()


if __name__ == "__main__":
    main()
