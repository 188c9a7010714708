"""Every kernel compiles for the cards it is for, without spilling, and takes no more than it did.

No GPU is needed. ``golden/kernels/`` is what the kernels took when it was written, by compiler;
after a change that is meant, and after another compiler, ``python -m tests.golden.make_kernels``
writes it. Two compilers are asked, for one architecture each; ``make test-compilers`` asks all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from merlin_poeem import ItemSet
from merlin_poeem.quantization.stored_vectors import FLAT_DTYPES, VECTOR_DTYPES
from merlin_poeem.search.gpu.filters import NO_FILTERS
from merlin_poeem.search.gpu.index_shape import MAX_CODE_BYTES
from merlin_poeem.search.gpu.kernels import FOLDER, every_kernel
from merlin_poeem.search.gpu.shared_memory import (
    LARGE_TILE_BATCH,
    MIN_RESIDENT_BLOCKS,
    STATIC_SHARED_BYTES,
)
from merlin_poeem.search.gpu.shared_memory import THREADS as THREADS_OF_BLOCK
from tests.flat_factories import flat_queries, random_flat
from tests.golden import make_kernels
from tests.index_factories import random_index, random_queries, with_far_codeword
from tests.search.gpu import nvrtc
from tests.search.gpu.emulation.device import EmulatedDevice
from tests.search.gpu.nvrtc import Kernel, Resources, architectures_of
from tests.search.gpu.nvrtc_library import UNPACKED, Compiler, compilers, own_compiler
from tests.search.gpu.openers import BULK, COMPACT, SPLIT, ReplannedFlat, ReplannedSearcher

REGISTERS = 65536
"""Of a multiprocessor; a warp gets them in steps of 8 a thread."""

GLOBAL_FUNCTION = re.compile(r"__global__\b[^(]*(?:\([^()]*(?:\([^()]*\))?\))?\s*(\w+)\(")


OWN = "own"
ALL = os.environ.get("MERLIN_POEEM_COMPILERS") == "all"
# The oldest of CUDA 13, where registers are fewest, and the newest.
ASKED = dict.fromkeys((*UNPACKED, OWN)) if ALL else {"13.0": [80], OWN: [90]}
"""Architectures by compiler; None is all that it knows of the table's."""


@dataclass(frozen=True)
class Compiled:
    """All kernels, as one compiler has them."""

    compiler: Compiler
    architectures: list[int]
    resources: dict[Kernel, Resources]
    warnings: list[str]


@pytest.fixture(scope="module", params=ASKED)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """Every kernel, by each compiler that is asked."""
    release = request.param
    compiler = own_compiler() if release == OWN else compilers().get(release)
    if compiler is None:
        pytest.skip(
            "needs NVRTC, which the current environment has"
            if release == OWN
            else f"needs NVRTC {release}: make .venv/nvrtc-{release}/.ready"
        )
    architectures = ASKED[release] or architectures_of(compiler)
    return Compiled(compiler, architectures, *nvrtc.compile_every_kernel(compiler, architectures))


@pytest.fixture
def resources(compiled: Compiled) -> dict[Kernel, Resources]:
    return compiled.resources


def test_every_kernel_compiles_without_a_warning(compiled: Compiled) -> None:
    assert set(compiled.resources) == {
        Kernel(architecture, file, name)
        for architecture in compiled.architectures
        for file, name in every_kernel()
    }
    assert compiled.warnings == []


def test_no_kernel_spills(resources: dict[Kernel, Resources]) -> None:
    assert _those(resources, lambda r: r.spilled_bytes) == {}


def test_blocks_fit_as_the_plan_has_them(resources: dict[Kernel, Resources]) -> None:
    assert _those(resources, lambda r: r.threads != THREADS_OF_BLOCK) == {}
    assert _those(resources, lambda r: r.shared_bytes > STATIC_SHARED_BYTES) == {}
    assert (
        _those(resources, lambda r: _resident_blocks(r) < max(r.blocks, MIN_RESIDENT_BLOCKS)) == {}
    )


def test_no_kernel_takes_more_than_it_did(compiled: Compiled) -> None:
    wheel, whole_table = make_kernels.read(compiled.compiler.release)
    told = "run python -m tests.golden.make_kernels, look at the diff"
    assert compiled.compiler.wheel == wheel, told
    resources = compiled.resources
    table = {k: of for k, of in whole_table.items() if k.architecture in compiled.architectures}
    assert set(table) == set(resources), told

    def takes_more(kernel: Kernel) -> bool:
        now, before = resources[kernel], table[kernel]
        return (
            now.registers > before.registers
            or now.shared_bytes > before.shared_bytes
            or now.blocks < before.blocks
        )

    assert {k: (table[k], resources[k]) for k in table if takes_more(k)} == {}


@pytest.mark.parametrize("release", make_kernels.releases())
def test_a_table_is_of_every_kernel_and_no_spill(release: str) -> None:
    """Here without a compiler too."""
    table = make_kernels.read(release)[1]
    assert {(kernel.file, kernel.name) for kernel in table} == set(every_kernel())
    assert _those(table, lambda r: r.spilled_bytes) == {}


def test_there_is_a_table_of_every_compiler() -> None:
    own = own_compiler()
    expected = {*UNPACKED, own.release} if own else set(UNPACKED)
    assert expected <= set(make_kernels.releases())
    assert len(make_kernels.releases()) == len(UNPACKED) + 1


def test_one_file_leaves_the_rows_of_others() -> None:
    _, table = make_kernels.read(make_kernels.releases()[0])
    others = {kernel: of for kernel, of in table.items() if kernel.file != "merge.cu"}
    changed = {
        kernel: replace(of, registers=of.registers + 1)
        for kernel, of in table.items()
        if kernel.file == "merge.cu"
    }
    for before in (table, others):
        merged = make_kernels.merged(before, ["merge.cu"], changed)
        assert merged == others | changed
        assert list(merged) == list(table)


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
    for code_bytes in range(4, MAX_CODE_BYTES + 1, 4):
        index = random_index("cosine", pq_dim=code_bytes, pq_len=1, scales=False)
        plain_index = random_index("inner_product", pq_dim=code_bytes, pq_len=1, scales=False)
        spread = {"lut_layout": "spread"}
        with np.errstate(all="ignore"):  # nothing was computed
            for changes in (SPLIT | spread, COMPACT, BULK):
                searcher = ReplannedSearcher(index, device, **changes)
                queries = index.quantization.coarse_centroids
                searcher.search_padded(queries, k=5, exclude=ItemSet(index.item_ids[:3]))
            plain = ReplannedSearcher(plain_index, device, **spread)
            plain.search_padded(plain_index.quantization.coarse_centroids, k=5)
            for changes in (spread, COMPACT):
                far = ReplannedSearcher(with_far_codeword(index, 1e4), device, **changes)
                far.search_padded(queries, k=5)
                far.search_padded(random_queries(index, LARGE_TILE_BATCH), k=5)
    for metric, pq_len in product(("cosine", "inner_product"), (16, 32, 64)):
        wide = random_index(metric, pq_dim=4, pq_len=pq_len, scales=metric == "cosine")
        with np.errstate(all="ignore"):
            searcher = ReplannedSearcher(wide, device, **BULK)
            searcher.search_padded(random_queries(wide, LARGE_TILE_BATCH), k=5)
    for metric, dtype in product(("cosine", "l2"), VECTOR_DTYPES):
        refined = random_index(metric, vectors=dtype)
        with np.errstate(all="ignore"):
            searcher = ReplannedSearcher(refined, device, lut_layout="spread")
            searcher.search_padded(random_queries(refined, 3), k=5, refine=2)
    for metric, flat_dtype in product(("cosine", "l2"), FLAT_DTYPES):
        flat = random_flat(metric, flat_dtype)
        ReplannedFlat(flat, device, n_parts=2)._run(flat_queries(flat), 5, NO_FILTERS)
    assert device.asked == set(every_kernel())


def _resident_blocks(resources: Resources) -> int:
    """Blocks that a multiprocessor has the registers for."""
    of_thread = -(-resources.registers // 8) * 8
    return REGISTERS // (of_thread * resources.threads)


def _those(
    resources: dict[Kernel, Resources], wrong: Callable[[Resources], object]
) -> dict[Kernel, Resources]:
    return {kernel: each for kernel, each in resources.items() if wrong(each)}
