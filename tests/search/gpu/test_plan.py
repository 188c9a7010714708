"""Every plan keeps the limits of its card, whatever the index, the batch, k and the probes."""

import re
from collections.abc import Callable, Sequence
from math import ceil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.device_index import DeviceIndex
from merlin_poeem.search.gpu.device_vectors import QUAD_BYTES, DeviceVectors
from merlin_poeem.search.gpu.index_shape import MAX_CODE_BYTES, TILE_ITEMS, IndexShape
from merlin_poeem.search.gpu.kept_searches import KEPT_SEARCHES
from merlin_poeem.search.gpu.kernels import kernel_source
from merlin_poeem.search.gpu.pipeline import Pipeline
from merlin_poeem.search.gpu.plan import (
    MAX_ARRAYS,
    MAX_CAPTURED_BATCH,
    MAX_K,
    MAX_MERGED,
    MAX_PARTS,
    SearchPlan,
    graph_batch,
    plan_search,
    workspace_bytes_for_all,
    workspace_bytes_per_query,
)
from merlin_poeem.search.gpu.results import Results
from merlin_poeem.search.gpu.rounding import round_up
from merlin_poeem.search.gpu.shared_memory import (
    BOOK_ROWS,
    STATIC_SHARED_BYTES,
    THREADS,
    lut_shared_bytes,
    query_warps,
    segment_widths,
)
from merlin_poeem.search.gpu.workspace import ALIGNMENT

MAX_GRID = (2**31 - 1, 65535, 65535)
WORKSPACE = 256 << 20
KIB = 1024


def card(name: str, capability: tuple[int, int], n: int, block: int, whole: int) -> Card:
    """Shared memory in KiB: the most that a block may have, and what a multiprocessor has."""
    return Card(name, capability, n, block * KIB, whole * KIB, 16 << 30)


T4 = card("T4", (7, 5), 40, 64, 64)
A100 = card("A100", (8, 0), 108, 163, 164)
L40 = card("L40", (8, 9), 58, 99, 100)
H100 = card("H100", (9, 0), 132, 227, 228)
CARDS = [
    T4,
    A100,
    card("A40", (8, 6), 84, 99, 100),
    L40,
    H100,
    card("B200", (10, 0), 148, 227, 228),
    card("RTX 5090", (12, 0), 170, 99, 100),
]


@st.composite
def shapes(draw: st.DrawFn) -> IndexShape:
    """Any index that the kernels take, with lists filled in any way."""
    n_items, n_lists = draw(st.integers(1, 4 * 10**9)), draw(st.integers(1, 65536))
    code_bytes, dim = 4 * draw(st.integers(1, MAX_CODE_BYTES // 4)), draw(st.integers(1, 2048))
    used_bytes = code_bytes - draw(st.integers(0, 3))
    return IndexShape(
        n_items=n_items,
        n_lists=n_lists,
        n_groups=ceil(n_items / 32) + draw(st.integers(0, n_lists)),
        dim=dim,
        code_bytes=code_bytes,
        byte_len=ceil(dim / used_bytes),
        metric=draw(st.sampled_from(METRICS)),
        n_tiles=ceil(n_items / TILE_ITEMS) + draw(st.integers(0, n_lists)),
    )


def shape(**changes: Any) -> IndexShape:
    """4.3M items in 1024 lists."""
    sizes = {"n_items": 4_300_000, "n_lists": 1024, "n_groups": 135_000, "dim": 64}
    sizes = {**sizes, "code_bytes": 16, "n_tiles": 34_000, **changes}
    byte_len = ceil(sizes["dim"] / sizes["code_bytes"])
    return IndexShape(**{"byte_len": byte_len, "metric": "inner_product", **sizes})


class Sketch:
    """A device without memory: arrays are their shapes, launches are held against the card."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.allocated = 0
        self.xp = SimpleNamespace(
            empty=self.empty,
            matmul=lambda a, b, out: out[: len(a)],
        )

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        array = np.broadcast_to(np.zeros((), dtype), shape)
        self.allocated += array.nbytes
        return array

    def kernel(self, file: str, name: str) -> Callable[..., None]:
        own = re.search(r"^\s*__shared__", kernel_source(file), re.M)
        static_bytes = STATIC_SHARED_BYTES if own else 0

        def launch(
            grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_bytes: int = 0
        ) -> None:
            assert all(1 <= n <= most for n, most in zip(grid, MAX_GRID, strict=False)), name
            assert 32 <= block[0] <= THREADS, name
            assert shared_bytes + static_bytes <= self.card.shared_bytes_per_block, name

        return launch


def sketched_vectors(index: IndexShape, is_half: bool) -> DeviceVectors:
    row_bytes = round_up(index.dim * (2 if is_half else 1), QUAD_BYTES)
    values = np.broadcast_to(np.uint8(0), (1, row_bytes))
    return DeviceVectors(values, scales=None, sorted_ids=None, ranks=None, is_half=is_half)


def run_sketch(
    card: Card, index: IndexShape, plan: SearchPlan, k: int, n_probes: int, is_half: bool = True
) -> Sketch:
    """The launches of ``plan`` for a full chunk and a last one of one query."""
    device = Sketch(card)
    fields = dict.fromkeys(DeviceIndex.__dataclass_fields__)
    table = np.broadcast_to(np.float32(0), (index.dim, index.n_lists))
    book = np.broadcast_to(np.float32(0), (index.byte_len, BOOK_ROWS, index.code_bytes))
    arrays = {"list_table": table, "book": book, "vectors": sketched_vectors(index, is_half)}
    on_device = DeviceIndex(**{**fields, "shape": index, **arrays})
    pieces = SketchedPieces(device)
    pipeline = Pipeline(device, on_device, plan, k, n_probes, pieces)  # type: ignore[arg-type]
    n = plan.chunk + 1
    results = Results(*(device.empty((n, k), kind) for kind in ("f4", "i8")), device.empty(n, "i4"))
    pipeline.run(np.broadcast_to(np.float32(0), (n, index.dim)), results)
    device.allocated = pieces.taken
    return device


class SketchedPieces:
    """``Pieces`` of no memory, which only counts."""

    def __init__(self, device: Sketch) -> None:
        self.device, self.taken, self.n_arrays = device, 0, 0

    def take(self, shape: Any, dtype: Any) -> np.ndarray:
        array = self.device.empty(shape, dtype)
        self.taken = round_up(self.taken, ALIGNMENT) + array.nbytes
        self.n_arrays += 1
        assert self.n_arrays <= MAX_ARRAYS
        return array


@given(
    st.sampled_from(CARDS),
    shapes(),
    st.integers(1, 100_000),
    st.integers(1, MAX_K),
    st.integers(1, 65536),
    st.sampled_from([1 << 16, 1 << 20, WORKSPACE]),
    st.integers(0, 8),
    st.booleans(),
)
def test_every_plan_keeps_the_limits(
    card: Card,
    index: IndexShape,
    batch: int,
    k: int,
    n_probes: int,
    workspace: int,
    refine: int,
    is_half: bool,
) -> None:
    n_probes, k = min(n_probes, index.n_lists), max(1, k // max(1, refine))
    try:
        plan = plan_search(card, index, batch, k, n_probes, workspace, refine=refine)
    except ValueError as error:
        assert_names_need_and_limit(str(error), card, workspace)
        return
    device = run_sketch(card, index, plan, k, n_probes, is_half)
    assert plan.n_candidates == min(refine * k, index.n_items)
    k = plan.n_candidates or k
    assert device.allocated <= plan.workspace_bytes <= workspace
    assert plan.workspace_bytes - device.allocated <= MAX_ARRAYS * ALIGNMENT
    assert 1 <= plan.chunk <= batch
    assert_balanced(plan, batch)
    assert plan.capacity >= k + THREADS
    assert plan.capacity & (plan.capacity - 1) == 0
    assert plan.lut_bytes == lut_shared_bytes(index.code_bytes, plan.lut_layout)
    assert plan.shared_bytes >= plan.lut_bytes + plan.capacity * 8 + k * 2
    assert plan.merge_shared_bytes >= plan.capacity * 8 + k * 2
    assert_sensible_parts(card, index, plan, batch, k, n_probes)


def assert_balanced(plan: SearchPlan, batch: int) -> None:
    """The last chunk is smaller than the others by less than the number of chunks."""
    n_chunks = ceil(batch / plan.chunk)
    assert n_chunks * plan.chunk - batch < n_chunks


def assert_names_need_and_limit(message: str, card: Card, workspace: int) -> None:
    if "workspace_bytes" in message:
        found = re.search(r"at least (\d+), .*; got (\d+)$", message)
        limit = workspace
    else:
        found = re.search(rf"need (\d+) bytes of shared .*; {card.name} has (\d+)", message)
        limit = card.shared_bytes_per_block
    assert found, message
    assert int(found[1]) > int(found[2]) == limit


def assert_sensible_parts(
    card: Card, index: IndexShape, plan: SearchPlan, batch: int, k: int, n_probes: int
) -> None:
    if plan.n_parts == 1:
        return
    assert plan.n_parts <= MAX_PARTS
    assert plan.n_parts * k <= MAX_MERGED
    # No more blocks than the card can hold, but for rounding; each with work to do.
    held = card.n_multiprocessors * (card.shared_bytes_per_multiprocessor // plan.shared_bytes)
    assert (plan.n_parts - 1) * batch < held
    assert n_probes * index.n_groups / index.n_lists >= 32 * plan.n_parts


@given(st.sampled_from(CARDS), st.integers(1, MAX_CAPTURED_BATCH), st.integers(1, 5000))
def test_graph_is_of_a_batch_that_can_be_captured(card: Card, batch: int, held: int) -> None:
    index = shape()
    of_query = workspace_bytes_per_query(index, 10, 64, n_parts=1)
    workspace = workspace_bytes_for_all(index, None) + of_query * held
    try:
        plan = plan_search(card, index, batch, 10, 64, workspace)
    except ValueError:
        # Small batches are split over blocks, and need more of it.
        assert held < MAX_PARTS
        return
    rounded = plan.captured_batch
    if rounded is not None:
        assert plan.chunk == batch <= rounded <= MAX_CAPTURED_BATCH
        of_graph = plan_search(card, index, rounded, 10, 64, workspace)
        assert of_graph.captured_batch == of_graph.chunk == rounded


@given(st.integers(1, 10**6))
def test_batches_of_graphs_are_few_and_near(batch: int) -> None:
    rounded = graph_batch(batch)
    assert batch <= rounded == graph_batch(rounded)
    assert rounded < 2 * batch if batch <= 32 else rounded <= 1.25 * batch
    assert len({graph_batch(n) for n in range(1, MAX_CAPTURED_BATCH + 1)}) < KEPT_SEARCHES


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize("dim", [64, 128, 256, 768, 1024, 2048])
def test_usual_dimensions_fit_every_card(card: Card, dim: int) -> None:
    index = shape(dim=dim)
    for batch in (1, 33, 1024):
        plan = plan_search(card, index, batch, 100, 8, WORKSPACE)
        assert run_sketch(card, index, plan, 100, 8).allocated <= plan.workspace_bytes


def test_dimensions_beyond_the_shared_memory() -> None:
    assert query_warps(T4, 1024) == query_warps(H100, 2048) == 8
    assert query_warps(T4, 2048) == 4
    # One code for 2,048 dimensions; the device pads it to four.
    with pytest.raises(ValueError, match=r"2048 dimensions.*need 262144 bytes.*H100 has 232448"):
        plan_search(H100, shape(dim=2048, code_bytes=4, byte_len=2048), 1, 10, 8, WORKSPACE)
    with pytest.raises(ValueError, match=r"2052 dimensions.*need 65664 bytes.*T4 has 65536"):
        plan_search(T4, shape(dim=2052, code_bytes=4), 1, 10, 8, WORKSPACE)


@pytest.mark.parametrize(
    ("card", "code_bytes", "k", "layout", "lut_kib"),
    [
        (T4, 4, 10, "compact", 4),
        (T4, 32, 100, "compact", 32),
        (A100, 8, 10, "spread", 32),
        (A100, 64, 10, "spread", 64),
        (A100, 64, 1000, "compact", 64),
        (L40, 32, 100, "spread", 32),
        (L40, 36, 100, "compact", 36),
        (H100, 36, 100, "spread", 64),
        (H100, 64, 2048, "spread", 64),
    ],
)
def test_layout(card: Card, code_bytes: int, k: int, layout: str, lut_kib: int) -> None:
    plan = plan_search(card, shape(code_bytes=code_bytes), 1024, k, 8, WORKSPACE)
    assert (plan.lut_layout, plan.lut_bytes) == (layout, lut_kib * KIB)


def test_codes_too_wide_for_the_card() -> None:
    with pytest.raises(ValueError, match=r"64 code bytes.*need 75008 bytes.*T4 has 65536"):
        plan_search(T4, shape(code_bytes=64), 1, 10, 8, WORKSPACE)


def test_k_beyond_the_kernels() -> None:
    with pytest.raises(ValueError, match="k: expected at most 2048 on the GPU, got 2049"):
        plan_search(H100, shape(), 1, 2049, 8, WORKSPACE)


def test_candidates_beyond_the_kernels() -> None:
    with pytest.raises(ValueError, match=r"refine, k: .* at most 2048 on the GPU, got 3 \* 683"):
        plan_search(H100, shape(), 1, 683, 8, WORKSPACE, refine=3)
    plan = plan_search(H100, shape(n_items=2000), 1, 683, 8, WORKSPACE, refine=3)
    assert plan.n_candidates == 2000


def test_workspace_for_less_than_one_query() -> None:
    message = r"workspace_bytes: .*at least 2\d{4}, .*n_probes = 8 and k = 10 needs; got 1000"
    with pytest.raises(ValueError, match=message):
        plan_search(H100, shape(), 1000, 10, 8, 1000)


def test_small_batches_fill_the_card_and_large_ones_are_not_split() -> None:
    small, large = (plan_search(H100, shape(), n, 10, 64, WORKSPACE) for n in (8, 4096))
    assert 8 * small.n_parts >= H100.n_multiprocessors
    assert large.n_parts == 1


@given(st.integers(1, MAX_CODE_BYTES // 4))
def test_segments_cover_the_code(quads: int) -> None:
    widths = segment_widths(4 * quads)
    assert sum(widths) == 4 * quads
    assert set(widths) <= {32, 16, 8, 4}
    assert widths == sorted(widths, reverse=True)
    assert lut_shared_bytes(4 * quads, "compact") == 4 * BOOK_ROWS * 4 * quads
    assert lut_shared_bytes(4 * quads, "spread") == 4 * BOOK_ROWS * 32 * len(widths)
