"""Every kernel compiles for the cards it is for, without spilling, and takes no more than it did.

No GPU is needed. ``golden/kernels.json`` is what the kernels took when it was written; after a
change that is meant, and after another compiler, ``python -m tests.golden.make_kernels`` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from merlin_poeem import ItemSet
from merlin_poeem.search.gpu.index_shape import MAX_CODE_BYTES
from merlin_poeem.search.gpu.kernels import FOLDER, every_kernel
from merlin_poeem.search.gpu.shared_memory import MIN_RESIDENT_BLOCKS, STATIC_SHARED_BYTES
from merlin_poeem.search.gpu.shared_memory import THREADS as THREADS_OF_BLOCK
from tests.golden import make_kernels
from tests.index_factories import random_index
from tests.search.gpu import nvrtc
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.nvrtc import ARCHITECTURES, Kernel, Resources
from tests.search.gpu.openers import BULK, COMPACT, SPLIT, ReplannedSearcher

REGISTERS = 65536
"""Of a multiprocessor; a warp gets them in steps of 8 a thread."""

GLOBAL_FUNCTION = re.compile(r"__global__\b[^(]*(?:\([^()]*(?:\([^()]*\))?\))?\s*(\w+)\(")


@pytest.fixture(scope="module")
def compiled() -> tuple[dict[Kernel, Resources], list[str]]:
    """Every kernel, and the compiler's warnings."""
    if reason := nvrtc.missing():
        pytest.skip(reason)
    return nvrtc.compile_every_kernel()


@pytest.fixture
def resources(compiled: tuple[dict[Kernel, Resources], list[str]]) -> dict[Kernel, Resources]:
    return compiled[0]


def test_every_kernel_compiles_without_a_warning(
    compiled: tuple[dict[Kernel, Resources], list[str]],
) -> None:
    resources, warnings = compiled
    assert set(resources) == {
        Kernel(architecture, file, name)
        for architecture in ARCHITECTURES
        for file, name in every_kernel()
    }
    assert warnings == []


def test_no_kernel_spills(resources: dict[Kernel, Resources]) -> None:
    assert (
        _those(resources, lambda r: r.stack_bytes + r.spill_store_bytes + r.spill_load_bytes) == {}
    )


def test_blocks_fit_as_the_plan_has_them(resources: dict[Kernel, Resources]) -> None:
    assert _those(resources, lambda r: r.threads != THREADS_OF_BLOCK) == {}
    assert _those(resources, lambda r: r.shared_bytes > STATIC_SHARED_BYTES) == {}
    assert (
        _those(resources, lambda r: _resident_blocks(r) < max(r.blocks, MIN_RESIDENT_BLOCKS)) == {}
    )


def test_no_kernel_takes_more_than_it_did(resources: dict[Kernel, Resources]) -> None:
    compiler, table = make_kernels.read()
    assert nvrtc.compiler() == compiler, "run python -m tests.golden.make_kernels, look at the diff"
    assert set(table) == set(resources)

    def takes_more(kernel: Kernel) -> bool:
        now, before = resources[kernel], table[kernel]
        return (
            now.registers > before.registers
            or now.shared_bytes > before.shared_bytes
            or now.blocks < before.blocks
        )

    assert {k: (table[k], resources[k]) for k in table if takes_more(k)} == {}


def test_the_table_is_of_every_kernel() -> None:
    """Here without a compiler too."""
    of_architectures = {(kernel.file, kernel.name) for kernel in make_kernels.read()[1]}
    assert of_architectures == set(every_kernel())


def test_every_kernel_is_listed() -> None:
    listed = {(file, name.partition("<")[0]) for file, name in every_kernel()}
    assert len(set(every_kernel())) == len(every_kernel())
    assert listed == {
        (path.name, function)
        for path in FOLDER.glob("*.cu")
        for function in GLOBAL_FUNCTION.findall(re.sub("//.*", "", path.read_text()))
    }


class AskedDevice(EmulatedDevice):
    """Runs nothing, and keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, str]] = set()

    def kernel(self, file: str, name: str) -> Any:
        """See ``Device.kernel``."""
        self.asked.add((file, name))
        return lambda *launch, **options: None


def test_searches_ask_for_the_listed_kernels() -> None:
    device = AskedDevice()
    own_products = COMPACT | {"library_products": False}
    for code_bytes in range(4, MAX_CODE_BYTES + 1, 4):
        index = random_index("cosine", pq_dim=code_bytes, pq_len=1)
        plain_index = random_index("inner_product", pq_dim=code_bytes, pq_len=1)
        spread = {"lut_layout": "spread"}
        with np.errstate(all="ignore"):  # nothing was computed
            for changes in (SPLIT | spread, COMPACT, own_products, BULK):
                searcher = ReplannedSearcher(index, device, **changes)
                queries = index.quantization.coarse_centroids
                searcher.search_padded(queries, k=5, exclude=ItemSet(index.item_ids[:3]))
            plain = ReplannedSearcher(plain_index, device, **spread)
            plain.search_padded(plain_index.quantization.coarse_centroids, k=5)
    assert device.asked == set(every_kernel())


def _resident_blocks(resources: Resources) -> int:
    """Blocks that a multiprocessor has the registers for."""
    of_thread = -(-resources.registers // 8) * 8
    return REGISTERS // (of_thread * resources.threads)


def _those(
    resources: dict[Kernel, Resources], wrong: Callable[[Resources], object]
) -> dict[Kernel, Resources]:
    return {kernel: each for kernel, each in resources.items() if wrong(each)}
