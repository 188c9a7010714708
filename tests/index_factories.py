"""Small indexes for tests: made from codes, so that the truth is known without training."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from merlin_poeem import Index, ItemCodes, ItemSet, IVFPQParams, Quantization
from merlin_poeem.quantization.stored_vectors import VectorDtype

FIRST_ID = 2**40

Rotation = bool | Literal["stretched"]


def rotations_of(metric: str, *, scales: bool) -> list[Rotation]:
    """What an index may do to vectors before it compares them; a stretch keeps only products."""
    can_stretch = metric == "inner_product" or (metric == "cosine" and scales)
    return [False, True, "stretched"] if can_stretch else [False, True]


def random_rotation(rng: np.random.Generator, dim: int) -> np.ndarray:
    """(dim, dim) float32 orthogonal."""
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)


def random_stretch(rng: np.random.Generator, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(dim, dim) float32 of items and of queries, far from orthogonal."""
    before, after = random_rotation(rng, dim), random_rotation(rng, dim)
    widths = np.geomspace(0.5, 2, dim)
    of_items, of_queries = (before * each @ after for each in (widths, 1 / widths))
    return of_items.astype(np.float32), of_queries.astype(np.float32)


def random_quantization(
    rng: np.random.Generator,
    *,
    n_lists: int = 8,
    pq_dim: int = 4,
    pq_bits: int = 8,
    pq_len: int = 4,
    rotation: Rotation = False,
    spread: float = 1.0,
    encodes_residual: bool = True,
    scales: bool = False,
) -> Quantization:
    """Centroids ``spread`` times as far apart as the codewords are."""
    dim = pq_dim * pq_len
    codewords = rng.standard_normal((pq_dim, 1 << pq_bits, pq_len))
    centroids = (spread * rng.standard_normal((n_lists, dim))).astype(np.float32)
    of_items = of_queries = None
    if rotation == "stretched":
        of_items, of_queries = random_stretch(rng, dim)
    elif rotation:
        of_items = random_rotation(rng, dim)
    return Quantization(
        centroids,
        (0.5 * codewords).astype(np.float32),
        of_items,
        encodes_residual,
        np.array([0.3, 3], np.float32) if scales else None,
        of_queries,
    )


def random_index(
    metric: str = "inner_product",
    *,
    n_items: int = 400,
    n_probes: int = 3,
    seed: int = 0,
    n_repeated: int = 60,
    filled_lists: int | None = None,
    scales: bool = True,
    vectors: VectorDtype | None = None,
    **quantization: Any,
) -> Index:
    """Random codes, ids above 2**40 in no order, the last two lists empty.

    ``n_repeated`` items share the list and codes of one of five others, and most of them its scale.
    Items have ``scales`` unless the metric is l2. With ``vectors`` of a dtype they have those too,
    which are not far from what the codes stand for; they are not looked at unless it is asked for.
    """
    rng = np.random.default_rng(seed)
    scales = scales and metric != "l2"
    trained = random_quantization(rng, scales=scales, **quantization)
    filled = max(1, trained.n_lists - 2) if filled_lists is None else filled_lists
    list_ids = rng.integers(0, filled, n_items)
    codes = rng.integers(0, trained.pq_book_size, (n_items, trained.pq_dim))
    item_scales = np.random.default_rng(seed + 1).integers(0, 256, n_items).astype(np.uint8)
    if n_items > n_repeated + 5:
        originals = rng.integers(n_repeated, n_repeated + 5, n_repeated)
        list_ids[:n_repeated], codes[:n_repeated] = list_ids[originals], codes[originals]
        n_alike = n_repeated * 2 // 3
        item_scales[:n_alike] = item_scales[originals[:n_alike]]
    item_ids = FIRST_ID + rng.permutation(n_items) * 3
    params = IVFPQParams(
        n_lists=trained.n_lists,
        pq_dim=trained.pq_dim,
        pq_bits=trained.pq_bits,
        metric=metric,  # type: ignore[arg-type]
        n_probes=min(n_probes, trained.n_lists),
    )
    codes = codes.astype(trained.code_dtype)
    item_codes = ItemCodes(item_ids, list_ids, codes, item_scales if scales else None)
    index = Index.from_codes(params, trained, item_codes)
    return index if vectors is None else with_random_vectors(index, vectors)


def with_random_vectors(index: Index, dtype: VectorDtype, *, seed: int = 0) -> Index:
    """Vectors about as far from what is decoded as that is from zero; equal codes, equal vectors.

    Save for every third item, so that a second look tells apart what codes do not. ``refine`` is 0.
    """
    rng = np.random.default_rng(seed)
    decoded = index.decode(index.item_ids)
    _, first, which = np.unique(decoded, axis=0, return_index=True, return_inverse=True)
    noise = rng.standard_normal(decoded.shape).astype(np.float32)
    alike = np.arange(len(index)) % 3 > 0
    noise[alike] = noise[first[which.ravel()]][alike]
    return index.with_vectors(index.item_ids, decoded + noise, dtype).with_refine(0)


def random_queries(index: Index, n_queries: int, seed: int = 1) -> np.ndarray:
    """(n_queries, dim) float32."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_queries, index.dim)).astype(np.float32)


def random_id_lists(index: Index, n_queries: int, longest: int, seed: int = 2) -> list[np.ndarray]:
    """Ids of the index, with repeats, and some that it does not hold; the first list is empty."""
    rng = np.random.default_rng(seed)
    lists = [np.empty(0, np.int64)]
    for _ in range(n_queries - 1):
        held = rng.choice(index.item_ids, rng.integers(0, longest))
        lists.append(np.concatenate([held, [5, FIRST_ID + 1]]))
    return lists[:n_queries]


def random_item_set(index: Index, n_items: int, seed: int = 2) -> ItemSet:
    """``n_items`` ids of the index, and some that it does not hold."""
    held = np.random.default_rng(seed).choice(index.item_ids, n_items, replace=False)
    return ItemSet([*held.tolist(), 5, FIRST_ID + 1])


def assert_answers(
    index: Index,
    got: Any,
    queries: np.ndarray,
    *,
    k: int,
    n_probes: int | None = None,
    refine: int | None = None,
    exclude: Any = None,
    allow: Any = None,
) -> None:
    """``got`` is what the definition returns.

    Scores to 1e-5 of the largest; ids may swap only among items whose scores are that close; items
    that the definition does not tell apart come, and are cut off at k, strictly by id.
    """
    from merlin_poeem.search import reference

    if index.refine if refine is None else refine:
        # All that the second look is given: the same number of candidates for as many results.
        refine = index.refine if refine is None else refine
        k_of_all, refine_of_all = k * refine, 1
    else:
        k_of_all, refine_of_all = max(1, len(index)), 0
    eligible = reference.search(
        index,
        queries,
        k=k_of_all,
        n_probes=n_probes,
        refine=refine_of_all,
        exclude=exclude,
        allow=allow,
    )
    assert len(got) == len(queries)
    assert got.scores.dtype == np.float32
    assert got.item_ids.dtype == np.int64
    assert got.counts.dtype == np.int64
    np.testing.assert_array_equal(got.counts, np.minimum(eligible.counts, k))
    tolerance = 1e-5 * float(np.abs(eligible.scores).max(initial=1e-30))
    kind_of = _kinds(index, refined=refine_of_all > 0)
    for i in range(len(got)):
        scores, item_ids = got[i]
        if not len(scores):
            continue
        true_scores, true_ids = eligible[i]
        np.testing.assert_allclose(scores, true_scores[: len(scores)], rtol=0, atol=tolerance)
        assert (np.diff(scores) <= 0).all()
        assert len(set(item_ids.tolist())) == len(item_ids)
        true_score = dict(zip(true_ids.tolist(), true_scores.tolist(), strict=True))
        for score, item_id in zip(scores.tolist(), item_ids.tolist(), strict=True):
            assert abs(true_score[item_id] - score) <= tolerance
        _assert_kinds_by_id(item_ids, true_ids, kind_of)


def _kinds(index: Index, *, refined: bool) -> dict[int, bytes]:
    """Item id → what it is scored by: its list, codes and scale, or its stored vector."""
    if refined:
        assert index.vectors is not None
        vectors = index.vectors.decoded()
        return {int(i): v.tobytes() for i, v in zip(index.item_ids, vectors, strict=True)}
    scales = np.zeros(len(index), np.uint8) if index.scales is None else index.scales
    parts = (index.list_ids, index.codes, scales)
    return {
        int(item_id): b"".join(part.tobytes() for part in of_item)
        for item_id, *of_item in zip(index.item_ids, *parts, strict=True)
    }


def _assert_kinds_by_id(
    item_ids: np.ndarray, eligible: np.ndarray, kind_of: dict[int, bytes]
) -> None:
    returned, lowest = _by_kind(item_ids, kind_of), _by_kind(np.sort(eligible), kind_of)
    for kind, ids in returned.items():
        assert ids == lowest[kind][: len(ids)]


def _by_kind(item_ids: np.ndarray, kind_of: dict[int, bytes]) -> dict[bytes, list[int]]:
    """The ids of each kind, in the order in which they come."""
    of_kinds: dict[bytes, list[int]] = {}
    for item_id in item_ids.tolist():
        of_kinds.setdefault(kind_of[item_id], []).append(item_id)
    return of_kinds


def with_far_codeword(index: Index, size: float) -> Index:
    """One codeword of the first subspace is about ``size`` long."""
    codebook = index.quantization.codebook.copy()
    codebook[0, 0] *= np.float32(size)
    quantization = replace(index.quantization, codebook=codebook)
    return Index.from_codes(index.params, quantization, index.item_codes)
