"""Kernels with a fault put into their source: the contract has to notice every one.

What CUDA leaves to chance may hide a fault, such as a missing barrier; the emulated device shows it
in at least one of the orders in which it takes threads. Faults may end a process, so that each has
its own.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from merlin_poeem import Candidates, FlatIndex, Index, ItemSet
from merlin_poeem.search.gpu.bulk_plan import BulkPlan
from merlin_poeem.search.gpu.kernels import kernel_source
from tests.flat_factories import assert_flat_answers, flat_queries, random_flat
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_item_set,
    random_queries,
    with_random_vectors,
)
from tests.search.gpu.emulation.compiler import COMPILER, NO_COMPILER
from tests.search.gpu.emulation.device import ORDERS, EmulatedDevice, Order
from tests.search.gpu.emulation.errors import EmulationError
from tests.search.gpu.kept_files import REPOSITORY
from tests.search.gpu.openers import BULK, ReplannedFlat, ReplannedSearcher

# Kernels are the same in both environments, and this takes long.
ELSEWHERE = find_spec("tensorflow") is not None
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER),
    pytest.mark.skipif(ELSEWHERE, reason="runs in the current environment"),
]

N_PROCESSES, MOST_SECONDS = 2, 60
NOTICED, UNNOTICED = 10, 11
BARRIER = "__syncthreads();"


@dataclass(frozen=True)
class Fault:
    """``old`` becomes ``new`` in ``file`` with all that it includes; ``search`` shows it."""

    search: str
    file: str
    old: str
    new: str

    def edit(self, file: str, text: str) -> str:
        """See ``EmulatedDevice``."""
        if file != self.file:
            return text
        assert text.count(self.old) == 1, self.old
        return text.replace(self.old, self.new)


def barrier(search: str, file: str, before: str, after: str) -> Fault:
    """The barrier between the two is missing."""
    return Fault(search, file, f"{before}{BARRIER}{after}", before + after)


FAULTS = {
    # Barriers.
    "digit is chosen before all bits are there": barrier(
        "long", "scan.cu", "", "\n  return max(0, 24 - __clz"
    ),
    "digit is found before all are counted": barrier(
        "long", "scan.cu", "", "\n    if (warp_id() == 0) find_digit"
    ),
    "digit is read before it is found": barrier(
        "long", "scan.cu", "find_digit(shared, wanted);\n    ", ""
    ),
    "sorting steps overlap": barrier("ties", "scan.cu", "}\n      ", "\n    }\n  }\n}"),
    "moved up before the count is reset": barrier(
        "long", "scan.cu", "shared.count = 0;\n    ", "\n    for (unsigned start = 0; start < n;"
    ),
    "written over before it is read": barrier("long", "scan.cu", "", "\n      if (stays) {"),
    "written before the best are kept": barrier(
        "in parts", "scan.cu", "rows[place] = row;\n      }\n    }\n    ", ""
    ),
    "bins begin before all are counted": barrier(
        "long", "scan.cu", "", "\n    const unsigned own_bin"
    ),
    "bins are filled before all begin": Fault(
        "long",
        "scan.cu",
        "if (__syncthreads_or(start < k && n_own > MOST_IN_BIN)) return false;",
        "",
    ),
    "bins are read before they are filled": barrier(
        "long", "scan.cu", "static_cast<unsigned short>(i);\n    }\n    ", ""
    ),
    "kept before all are pushed": Fault(
        "long", "scan.cu", "if (!__syncthreads_or(pending))", "if (!pending)"
    ),
    "scanned before anything is loaded": barrier(
        "long", "scan.cu", "shared.count = 0;\n    ", "\n  }\n\n  // Stores"
    ),
    "scanned before the tile is loaded": barrier(
        "lists", "scan.cu", "between.first, n_probes);\n      ", ""
    ),
    "tiles follow too soon": barrier("lists", "scan.cu", "between.first += PROBE_TILE;\n    ", ""),
    "warps are summed before all are there": barrier(
        "lists", "lists.cu", "of_warps[warp_id()] = in_warp;\n  ", ""
    ),
    "sums of two kinds overlap": barrier(
        "lists alike", "lists.cu", "number > cut.n_ties);\n      ", ""
    ),
    "what reaches the bound is counted too early": barrier(
        "best lists", "lists.cu", "", "\n  const unsigned n = shared.n_reaching;"
    ),
    "best lists are read before they are chosen": barrier(
        "best lists", "lists.cu", "chosen.lists[before] = list;\n    }\n  }\n  ", ""
    ),
    "lists are read before they are chosen": barrier(
        "lists", "lists.cu", "probes[place].list = list;\n    }\n    ", ""
    ),
    "sums of two tiles of lists overlap": barrier(
        "lists", "lists.cu", "n_groups += total;\n    ", ""
    ),
    "queries are multiplied before all are there": barrier(
        "in bulk", "tiles.cu", "", "\n    if (first + next_tile < last_pair)"
    ),
    "items are held before they are decoded": barrier(
        "in bulk", "tiles.cu", "", "\n  items.hold(padded_dim);"
    ),
    "sums of two tiles of pairs overlap": barrier(
        "in bulk, many lists", "pairs.cu", "n_pairs += total;\n    ", ""
    ),
    # Bounds.
    "item after the list": Fault("long", "scan.cu", "row >= probe.row_end", "row > probe.row_end"),
    "pair after the buffer": Fault("long", "scan.cu", "place < capacity", "place <= capacity"),
    "pair without room is forgotten": Fault(
        "long", "scan.cu", "while (!full && scan.group", "while (scan.group"
    ),
    "buffer full too early": Fault(
        "in parts", "scan.cu", "__popc(pushing) > capacity", "__popc(pushing) >= capacity"
    ),
    "result after the k-th": Fault("long", "scan.cu", "if (rank < k) {", "if (rank <= k) {"),
    "list after the bound's last": Fault(
        "best lists", "lists.cu", "if (before < n_probes) {", "if (before + 1 < n_probes) {"
    ),
    "group after the probe": Fault("long", "scan.cu", "group >= probe.end", "group > probe.end"),
    "result after the part's last": Fault(
        "short parts",
        "merge.cu",
        "i % k < static_cast<unsigned>(part_counts",
        "i % k <= static_cast<unsigned>(part_counts",
    ),
    "group before the part": Fault(
        "in parts", "scan.cu", "n_groups * part / n_parts", "(n_groups * part + 2) / n_parts"
    ),
    # Ties.
    "ties by falling id at k": Fault(
        "ties",
        "scan.cu",
        "return ~static_cast<unsigned>(biased(id_of[row_of[i]]));",
        "return static_cast<unsigned>(biased(id_of[row_of[i]]));",
    ),
    "ties by the upper halves of ids alone": Fault(
        "wide ids, in parts", "scan.cu", "if (uppers.n_ties < uppers.n_equal) {", "if (false) {"
    ),
    "ties by the lower halves of ids alone": Fault(
        "wide ids", "scan.cu", "? ~static_cast<unsigned>(biased(id_of[row_of[i]]) >> 32)", "? 1u"
    ),
    "ids below zero come last": Fault("wide ids", "scan.cu", " ^ 0x8000000000000000ull", ""),
    "ties by falling id in the result": Fault(
        "ties", "scan.cu", "item_ids[rows[i]] < item_ids", "item_ids[rows[i]] > item_ids"
    ),
    "ties at k are all kept": Fault(
        "ties", "scan.cu", "if (cut.n_too_many() > slack) drop_ties(cut, n);", ""
    ),
    "ties at k are not moved": Fault(
        "ties", "scan.cu", "key_of(score) >= lowest", "key_of(score) > lowest"
    ),
    "ties with the threshold are left out": Fault(
        "ties", "scan.cu", "score >= best.threshold && row", "score > best.threshold && row"
    ),
    "tied lists by falling number": Fault(
        "tied lists", "lists.cu", "shared.lists[j] < list", "shared.lists[j] > list"
    ),
    "last tied list is left out": Fault(
        "lists alike", "lists.cu", "number > cut.n_ties", "number >= cut.n_ties"
    ),
    # Places.
    "lookups in the wrong column": Fault(
        "long", "scan.cu", "(lane ^ t) % BANKS", "(lane + t) % BANKS"
    ),
    "codes in the wrong column": Fault(
        "long", "layout.cu", "((lane ^ (t - start)) &", "((lane + (t - start)) &"
    ),
    "segments in one place": Fault(
        "several segments",
        "scan.cu",
        "OFFSET = 4 * segment_words<BYTES, SPREAD>(T)",
        "OFFSET = 0",
    ),
    "pairs in the wrong place": Fault(
        "in bulk", "pairs.cu", "atomicAdd(counts + list, -1)", "atomicAdd(counts + list, -1) + 1"
    ),
    # Filters and scores.
    "lists of ids are not asked": Fault(
        "filtered", "scan.cu", "&& filter.admits(items.item_ids, row)", ""
    ),
    "allowed ids are not asked": Fault(
        "filtered", "scan.cu", "return !has_allowed || holds", "return true || holds"
    ),
    "items are taken for of one scale": Fault(
        "scaled", "scan.cu", "__ldg(scale_table + __ldg(scales + row))", "1.0f"
    ),
    "scale of the item before": Fault(
        "scaled", "scan.cu", "__ldg(scales + row)", "__ldg(scales + (row > 0 ? row - 1 : 0))"
    ),
    "lists are taken for of one factor": Fault(
        "scaled",
        "lists.cu",
        "? make_float4(1, 1, 1, 1) : factors[quad]",
        "? make_float4(1, 1, 1, 1) : make_float4(1, 1, 1, 1)",
    ),
    "one bit for a whole group": Fault("item sets", "scan.cu", ">> lane & 1u", "& 1u"),
    "excluded is allowed": Fault(
        "item sets", "layout.cu", "!= (complement != 0)", "== (complement != 0)"
    ),
    "bulk asks no item set": Fault("in bulk", "tiles.cu", "      hits &= mask;\n", ""),
    # The bulk path.
    "hits of the other row": Fault("in bulk", "tiles.cu", "of_row[lane & 1u ? 8 : 0]", "of_row[0]"),
    "hits of two lanes alone": Fault(
        "in bulk", "tiles.cu", "      hits |= __shfl_xor_sync(ALL_LANES, hits, 2);\n", ""
    ),
    "a tile of queries is copied over the one in use": Fault(
        "in bulk", "tiles.cu", "rows + (turn ^ 1) * TILE_QUERIES * stride", "rows"
    ),
    "group of the tile's first items": Fault(
        "in bulk", "tiles.cu", "own.first_group + group_in_list + warp_item / 32", "own.first_group"
    ),
    "pairs are counted from where the last search ended": Fault(
        "in bulk", "queries.cu", "pair_counts[i] = 0;", "pair_counts[i] = 7;"
    ),
    "noted after what was noted before": Fault(
        "in bulk", "queries.cu", "noted_counts[query] = 0;", "noted_counts[query] = 5;"
    ),
    "no more noted than there is room for": Fault(
        "in bulk, no room", "tiles.cu", "if (place < capacity)", "if (place <= capacity)"
    ),
    "what was not noted is not scanned": Fault(
        "in bulk, no room", "rescore.cu", "n_noted > noted_capacity", "n_noted > 100000"
    ),
    "bits of a group are taken twice": Fault(
        "in bulk",
        "rescore.cu",
        "const unsigned number = n_given",
        "const unsigned number = 0 * n_given",
    ),
    "items of the lane before": Fault(
        "in bulk", "rescore.cu", "of_lane + step) <= number", "of_lane + step) < number"
    ),
    # The second look.
    "looked at before all candidates are there": barrier(
        "second look", "refine.cu", "shared.count = n;\n  ", "\n  const unsigned lane ="
    ),
    "vectors of one scale": Fault(
        "second look", "refine.cu", "scale = __ldg(vector_scales + rank);", "scale = 0.01f;"
    ),
    "scale of the vector before": Fault(
        "second look, l2",
        "refine.cu",
        "__ldg(vector_scales + rank)",
        "__ldg(vector_scales + (rank > 0 ? rank - 1 : 0))",
    ),
    "products without their scale": Fault(
        "second look", "refine.cu", "fmaf(sum, scale, 0.0f)", "sum"
    ),
    "queries from another origin": Fault(
        "second look, l2", "queries.cu", "if (origin != nullptr) sum -= origin[i];", ""
    ),
    "the end of a row is not read": Fault(
        "second look",
        "refine.cu",
        "quad < n_quads; quad += step",
        "quad < n_quads - 1; quad += step",
    ),
    "the last step of a wide row is not read": Fault(
        "second look, wide",
        "refine.cu",
        "quad < n_quads; quad += step",
        "quad < step; quad += step",
    ),
    "what the query has beyond its dimensions": Fault(
        "second look, l2",
        "refine.cu",
        "= i < dim ? queries[i] : 0.0f;",
        "= queries[i < dim ? i : 0];",
    ),
    "one of two float16 of a word": Fault(
        "second look, wide", "refine.cu", "static_cast<unsigned short>(word >> 16)", "0"
    ),
    "int8 without their sign": Fault(
        "second look", "refine.cu", "word ^ 0x80808080u, 0x4b000000u", "word, 0x4b000000u"
    ),
    "lanes of a vector are not all summed up": Fault(
        "second look", "refine.cu", "int apart = n_lanes / 2", "int apart = n_lanes / 4"
    ),
    "the vector in the row, not of the rank": Fault(
        "second look", "refine.cu", "const size_t rank = best.rows[i];", "const size_t rank = i;"
    ),
    "ids in the order of candidates": Fault(
        "second look",
        "refine.cu",
        "best.rows[i] = static_cast<unsigned>(candidates[i])",
        "best.rows[i] = static_cast<unsigned>(candidates[i] > 0 ? candidates[i] - 1 : 0)",
    ),
    "ties of a second look by falling id": Fault(
        "second look, ties",
        "refine.cu",
        "item_ids[rows[i]] < item_ids",
        "item_ids[rows[i]] > item_ids",
    ),
    "one candidate fewer": Fault(
        "second look, few",
        "refine.cu",
        "const unsigned n = candidate_counts[query];",
        "const unsigned n = max(1, candidate_counts[query]) - 1;",
    ),
    "one candidate more": Fault(
        "second look, few",
        "refine.cu",
        "const unsigned n = candidate_counts[query];",
        "const unsigned n = candidate_counts[query] + 1;",
    ),
    "as many as asked for, whatever there are": Fault(
        "second look, few",
        "refine.cu",
        "shared.count = n;\n  __syncthreads();\n  const",
        "shared.count = n_candidates;\n  __syncthreads();\n  const",
    ),
    "candidates of the first query": Fault(
        "second look", "refine.cu", "candidates += query * n_candidates;", ""
    ),
    # Exact search.
    "queries of two slabs overlap": barrier(
        "flat, l2", "flat.cu", "start += SLAB) {\n    ", "\n    for (int i = threadIdx.x; i < SLAB"
    ),
    "multiplied before all queries are there": barrier(
        "flat", "flat.cu", ": 0.0f;\n    }\n    ", "\n    const int stop ="
    ),
    "the first slab alone": Fault(
        "flat, l2", "flat.cu", "start < n_quads * N; start += SLAB", "start < SLAB; start += SLAB"
    ),
    # In what is read: scores that are not written may be those of an earlier search.
    "the first queries for all": Fault(
        "flat", "flat.cu", "const size_t query = first_query + i", "const size_t query = i"
    ),
    "what a query has beyond its dimensions": Fault(
        "flat, l2", "flat.cu", "query < n && column < dim", "query < n"
    ),
    "items of a thread side by side": Fault(
        "flat", "flat.cu", "(row + own * THREADS, n_quads, quad)", "(row + own, n_quads, quad)"
    ),
    "the first items for all": Fault(
        "flat, float32", "flat.cu", "(row + own * THREADS, n", "((row + own * THREADS) % ROWS, n"
    ),
    "the scale of a thread's first item": Fault(
        "flat", "flat.cu", "vector_scales[row + own * THREADS]", "vector_scales[row]"
    ),
    "differences without the scale": Fault(
        "flat, l2", "flat.cu", "values[i], scales[own], -parts[j]", "values[i], 1.0f, -parts[j]"
    ),
    "exact products without their scale": Fault(
        "flat", "flat.cu", "fmaf(sum, scales[own], 0.0f)", "sum"
    ),
    "the end of a vector is not read": Fault(
        "flat", "flat.cu", "quad < stop; quad++", "quad < stop - 1; quad++"
    ),
    "scores of the first query": Fault("flat", "flat.cu", "scores += query * n_rows;", ""),
    "the last item of a part is left out": Fault(
        "flat, l2", "flat.cu", "(n * (part + 1) / n_parts)", "(n * (part + 1) / n_parts - 1)"
    ),
    "the item before a part": Fault(
        "flat, few", "flat.cu", "(n * part / n_parts)", "(n * part / n_parts - (part > 0))"
    ),
    "lists of ids are not looked at": Fault(
        "flat", "flat.cu", " &&\n                          filter.admits(item_ids, row)", ""
    ),
    "the item set's bit of the next item": Fault(
        "flat, float32", "flat.cu", "row % 32 & 1u", "(row + 1) % 32 & 1u"
    ),
    "filters of the first query": Fault(
        "flat", "flat.cu", "filter(query, exclude_offsets", "filter(0, exclude_offsets"
    ),
    "asked for once, kept many times": Fault(
        "flat, l2", "flat.cu", "best.take(may_be, own[i], row);", "best.take(may_be, own[0], row);"
    ),
    "codes of a group's first half": Fault(
        "in bulk, wide",
        "tiles.cu",
        "t += THREADS / TILE_ITEMS * 4",
        "t += THREADS / TILE_ITEMS * 8",
    ),
}


@dataclass(frozen=True)
class Search:
    """With these changes to the plan, and these arguments beside the queries."""

    index: Index | FlatIndex
    queries: np.ndarray
    changes: dict[str, Any]
    arguments: dict[str, Any]


@cache
def searches() -> dict[str, Search]:
    """Small, and hard for the kernels: buffers overflow, scores tie, parts and tiles end inside."""
    one = {"n_parts": 1, "captured_batch": None, "sorts_probes": False}
    parts = {**one, "n_parts": 3}
    sorted_probes = {**one, "sorts_probes": True}
    bulk = {**BULK, "bulk": BulkPlan(1, 4096), "chunk": 130}
    index = random_index("l2", n_items=3000, seed=1)
    queries = random_queries(index, 3)
    long = Search(index, queries, one, {"k": 250, "n_probes": 8})
    lists = {"exclude": random_id_lists(index, 3, 1500), "allow": random_id_lists(index, 3, 2500)}
    sets = {
        "exclude": random_item_set(index, 800),
        "allow": random_item_set(index, 1500, seed=3),
    }
    product = random_index(n_items=3000, seed=1, spread=0.2, scales=False)
    same = random_index(n_items=2000, n_repeated=1900, encodes_residual=False, scales=False)
    many = random_index(n_items=1500, n_lists=300, n_repeated=0)
    odd = random_index("l2", n_items=1500, n_lists=301, n_repeated=0)
    wide = random_index(n_items=1000, pq_dim=20, pq_len=2)
    segments = random_index("cosine", pq_dim=12, pq_len=1)
    # Rows that end inside 16 bytes, of several lanes; wide ones take the lanes two steps.
    odd_dim = {"n_items": 1500, "pq_dim": 3, "pq_len": 11}
    seen, far = (random_index(m, vectors="int8", **odd_dim) for m in ("cosine", "l2"))
    wide_rows = random_index(pq_dim=4, pq_len=25, vectors="float16")
    alike = with_random_vectors(same, "int8")
    of_seen = random_queries(seen, 3)
    return {
        "second look": Search(seen, of_seen, one, {"k": 60, "n_probes": 8, "refine": 5}),
        "second look, l2": Search(
            far, random_queries(far, 3), one, {"k": 60, "n_probes": 8, "refine": 5}
        ),
        "second look, wide": Search(
            wide_rows, random_queries(wide_rows, 3), one, {"k": 30, "n_probes": 8, "refine": 4}
        ),
        "second look, few": Search(
            seen,
            of_seen,
            one,
            {"k": 60, "n_probes": 6, "refine": 5, "allow": [seen.item_ids[:40]] * 3},
        ),
        "second look, ties": Search(alike, queries, one, {"k": 230, "n_probes": 8, "refine": 6}),
        "long": long,
        "in parts": replace(long, changes=parts, arguments={"k": 250, "n_probes": 5}),
        "short parts": replace(long, changes=parts, arguments={"k": 600, "n_probes": 2}),
        "filtered": replace(long, arguments={"k": 90, "n_probes": 6, **lists}),
        "item sets": replace(long, arguments={"k": 90, "n_probes": 6, **sets}),
        "ties": Search(same, queries, one, {"k": 230, "n_probes": 8}),
        "lists": Search(many, queries, parts, {"k": 50, "n_probes": 290}),
        "best lists": Search(odd, queries, sorted_probes, {"k": 250, "n_probes": 40}),
        "scaled": Search(many, queries, sorted_probes, {"k": 250, "n_probes": 40}),
        "tied lists": Search(
            many, np.zeros_like(queries), sorted_probes, {"k": 40, "n_probes": 40}
        ),
        "lists alike": Search(lists_alike(many), queries, one, {"k": 300, "n_probes": 150}),
        "several segments": Search(
            segments, random_queries(segments, 3), {**one, "lut_layout": "compact"}, {"k": 20}
        ),
        "wide ids": Search(with_wide_ids(same), queries, one, {"k": 230, "n_probes": 8}),
        "wide ids, in parts": Search(
            with_wide_ids(same), queries, parts, {"k": 230, "n_probes": 8}
        ),
        "in bulk": Search(
            product, random_queries(product, 150), bulk, {"k": 5, "n_probes": 8, **sets}
        ),
        "in bulk, no room": Search(
            product,
            random_queries(product, 60),
            {**bulk, "bulk": BulkPlan(1, 20)},
            {"k": 5, "n_probes": 8},
        ),
        "in bulk, wide": Search(wide, random_queries(wide, 20), bulk, {"k": 60, "n_probes": 8}),
        "in bulk, many lists": Search(many, queries, bulk, {"k": 5, "n_probes": 200}),
        **flat_searches(),
    }


def flat_searches() -> dict[str, Search]:
    """Three blocks of items and two of queries; vectors that end inside 16 bytes, and two slabs."""
    rng = np.random.default_rng(0)
    small, wide, plain = (
        random_flat(metric, dtype, n_items=2100, dim=dim)
        for metric, dtype, dim in (
            ("cosine", "int8", 33),
            ("l2", "float16", 150),
            ("inner_product", "float32", 13),
        )
    )
    lists = {"exclude": [rng.choice(small.item_ids, 900) for _ in range(11)]}
    sets = {"allow": ItemSet(rng.choice(plain.item_ids, 1500))}
    parts = {"n_parts": 3}
    return {
        "flat": Search(small, flat_queries(small, 11), {}, {"k": 250, **lists}),
        "flat, l2": Search(wide, flat_queries(wide, 11), parts, {"k": 700}),
        "flat, float32": Search(plain, flat_queries(plain, 11), parts, {"k": 250, **sets}),
        "flat, few": Search(
            plain,
            flat_queries(plain, 3),
            parts,
            {"k": 800, "allow": [plain.item_ids[650:1450]] * 3},
        ),
    }


def with_wide_ids(index: Index) -> Index:
    """Ids of any size, so that both halves of them decide, and the sign."""
    codes = index.item_codes
    rng = np.random.default_rng(0)
    upper = rng.integers(-3, 3, index.n_items) << 32
    ids = upper + rng.permutation(index.n_items) * 1_000_003
    return Index.from_codes(index.params, index.quantization, replace(codes, item_ids=ids))


def lists_alike(index: Index) -> Index:
    """Centroids of three kinds, so that many lists tie and many others are better."""
    trained = index.quantization
    kinds = np.random.default_rng(0).integers(0, 3, index.n_lists)
    alike = replace(trained, coarse_centroids=trained.coarse_centroids[kinds])
    # Without factors, which would tell them apart.
    return Index.from_codes(index.params, alike, index.item_codes).without_list_lengths()


def answer(search: Search, order: Order, fault: Fault | None = None) -> Candidates:
    edit = None if fault is None else fault.edit
    # One thread of the system: a process that used several cannot be copied.
    device = EmulatedDevice(order, seed=1, n_os_threads=1, edit=edit)
    searcher: Any
    if isinstance(search.index, FlatIndex):
        searcher = ReplannedFlat(search.index, device, **search.changes)
    else:
        searcher = ReplannedSearcher(search.index, device, **search.changes)
    return searcher.search(search.queries, **search.arguments)


@cache
def right_answer(name: str) -> Candidates:
    """What the kernels as they are return in every order, which the definition confirms."""
    search = searches()[name]
    first, *others = (answer(search, order) for order in ORDERS)
    if isinstance(search.index, FlatIndex):
        assert_flat_answers(search.index, first, search.queries, **search.arguments)
    else:
        assert_answers(search.index, first, search.queries, **search.arguments)
    assert all(is_same(first, other) for other in others)
    return first


def is_same(a: Candidates, b: Candidates) -> bool:
    names = ("counts", "item_ids", "scores")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def is_noticed(fault: Fault) -> bool:
    right = right_answer(fault.search)
    for order in ORDERS:
        try:
            if not is_same(answer(searches()[fault.search], order, fault), right):
                return True
        except EmulationError as error:
            if "does not compile" in str(error):
                raise
            return True
    return False


def report() -> None:
    """Prints the names of the faults that nothing shows; in a process of its own."""
    for name in searches():
        right_answer(name)
    running: dict[int, str] = {}
    for name, fault in FAULTS.items():
        pid = os.fork()
        if pid == 0:
            signal.alarm(MOST_SECONDS)  # some faults never end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a broken heap has to say
            try:
                os._exit(NOTICED if is_noticed(fault) else UNNOTICED)
            finally:
                os._exit(UNNOTICED)
        running[pid] = name
        if len(running) == N_PROCESSES:
            wait_for_one(running)
    while running:
        wait_for_one(running)


def wait_for_one(running: dict[int, str]) -> None:
    pid, status = os.wait()
    name = running.pop(pid)
    # A signal is a notice as well.
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != NOTICED:
        print(name, flush=True)


@pytest.fixture(scope="module")
def unnoticed() -> list[str]:
    """Names of faults."""
    code = "from tests.search.gpu.test_mutants import report; report(); print('done')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=600
    )
    assert done.stdout.endswith("done\n"), done.stderr
    assert not done.stderr
    return done.stdout.splitlines()[:-1]


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_noticed(unnoticed: list[str], name: str) -> None:
    fault = FAULTS[name]
    text = kernel_source(fault.file)
    assert fault.edit(fault.file, text) != text
    assert name not in unnoticed
