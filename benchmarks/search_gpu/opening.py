"""What opening an index on the device takes."""

from __future__ import annotations

from typing import Any

from benchmarks.search_gpu.machine import Machine
from benchmarks.search_gpu.ours import open_ours
from benchmarks.search_gpu.timing import take_turns
from merlin_poeem.search.gpu.searcher import GpuSearcher


def measure_opening(searcher: GpuSearcher, machine: Machine) -> dict[str, Any]:
    """Seconds to bring its index onto the device, beside a plain copy of the codes and ids."""
    index = searcher.index
    arrays = (index.packed_codes, index.item_ids)
    n_bytes = sum(array.nbytes for array in arrays)
    opening: dict[str, Any] = {
        "index": index.info["catalog"],
        "device_bytes": searcher.device_bytes,
        "device_bytes_per_item": searcher.device_bytes / index.n_items,
        "code_and_id_bytes": n_bytes,
        **machine.description,
    }
    if machine.is_emulated:
        return opening
    works = {
        "open": (lambda: open_ours(index, machine), False),
        "copy": (lambda: [machine.xp.asarray(array) for array in arrays], False),
    }
    for name, seconds in take_turns(works, machine.xp).items():
        opening[f"{name}_seconds"] = seconds
        opening[f"{name}_bytes_per_second"] = n_bytes / seconds
    return opening
