"""Write the golden indexes of this format version; see README.md.

``python tests/golden/make.py FOLDER [NAME ...]``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from merlin_poeem.index.index import Index
from merlin_poeem.index.saving import save_index
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.search import reference

K = 5
N_LISTS = 4
# name: pq_bits, pq_dim, pq_len, metric, rotated ("stretched": with a query_rotation),
# encodes_residual, n_items, with a table, scales, and vectors
CASES = {
    "v2-scales": (8, 2, 3, "inner_product", True, True, 24, False, True),
    "v2-scales-cosine-4-bits": (4, 3, 2, "cosine", True, True, 24, False, True),
    "v2-scales-table-10-bits": (10, 2, 1, "inner_product", False, False, 24, True, True),
    "v2-plain": (4, 2, 2, "inner_product", False, True, 24, False, False),
    "v2-plain-l2": (8, 2, 2, "l2", False, True, 24, False, False),
    "v2-empty": (4, 2, 2, "inner_product", False, True, 0, False, True),
    "v2-vectors": (8, 2, 3, "cosine", True, True, 24, False, True, "float16"),
    "v2-vectors-l2-int8": (8, 2, 2, "l2", True, True, 24, True, False, "int8"),
    "v3-stretched": (8, 2, 3, "inner_product", "stretched", True, 24, False, False),
    "v3-stretched-cosine-4-bits": (4, 3, 2, "cosine", "stretched", True, 24, True, True, "float16"),
}


def make(folder: Path, name: str) -> None:
    """Save the case ``name`` in ``folder``, and what it has to answer beside it."""
    pq_bits, pq_dim, pq_len, metric, rotated, encodes_residual, n_items, *flags = CASES[name]
    with_table, scales, store_vectors = (*flags, None)[:3]
    rng = np.random.default_rng(sorted(CASES).index(name))
    dim = pq_dim * pq_len
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
    of_queries = None
    if rotated == "stretched":
        widths = np.geomspace(0.5, 2, dim).astype(np.float32)
        rotation, of_queries = rotation * widths, rotation / widths
    quantization = Quantization(
        rng.normal(size=(N_LISTS, dim)).astype(np.float32),
        rng.normal(size=(pq_dim, 1 << pq_bits, pq_len)).astype(np.float32),
        rotation if rotated else None,
        encodes_residual,
        np.array([0.25, 4], np.float32) if scales else None,
        of_queries,
    )
    item_codes = ItemCodes(
        (1 << 41) + 7 * np.arange(n_items),
        rng.integers(0, N_LISTS - 1, n_items),  # the last list stays empty
        rng.integers(0, 1 << pq_bits, (n_items, pq_dim)).astype(quantization.code_dtype),
        rng.integers(0, 256, n_items).astype(np.uint8) if scales else None,
    )
    params = IVFPQParams(n_lists=N_LISTS, pq_dim=pq_dim, pq_bits=pq_bits, metric=metric, n_probes=3)
    titles = [None if i == 3 else f"títle {i}" for i in range(n_items)]
    table = pd.DataFrame({"item_id": item_codes.item_ids, "title": titles, "year": 1990})
    index = Index.from_codes(
        params,
        quantization,
        item_codes,
        item_table=table if with_table else None,
        info={"golden": name},
    )
    if store_vectors is not None:
        vectors = rng.normal(size=(n_items, dim)).astype(np.float32)
        index = index.with_vectors(item_codes.item_ids, vectors, store_vectors)
    save_index(index, folder / name)
    queries = rng.normal(size=(3, dim)).astype(np.float32)
    found = reference.search(index, queries, k=K)
    expected = {
        "params": params.to_dict(),
        "info": index.info,
        "k": K,
        "queries": queries.tolist(),
        "counts": found.counts.tolist(),
        "item_ids": found.item_ids.tolist(),
        "scores": found.scores.tolist(),
        "scales": None if index.scales is None else index.scales.tolist(),
        "list_factors": None if index.list_factors is None else index.list_factors.tolist(),
        "vectors": None if index.vectors is None else index.vectors.decoded().tolist(),
        "item_table": json.loads(table.to_json(orient="records")) if with_table else None,
    }
    (folder / f"{name}.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        make(Path(sys.argv[1]), case)
