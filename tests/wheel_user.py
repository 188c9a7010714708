"""What a user does who has the wheel and nothing of the repository; run by ``test_wheel``.

python -I wheel_user.py    # in an empty folder
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

import merlin_poeem as mp
from merlin_poeem import plots
from merlin_poeem.datasets import aliccp
from merlin_poeem.encoders import open_encoder
from merlin_poeem.evaluate import exact_search, items_scanned, recall_at_k

N_ITEMS, DIM, K = 2_000, 16, 10


def is_of_this_environment() -> None:
    assert Path(mp.__file__).is_relative_to(sys.prefix), mp.__file__
    kernels = files("merlin_poeem.search.gpu") / "cuda" / "scan.cu"
    assert "__global__" in kernels.read_text()


def index_save_load_search() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N_ITEMS, DIM)).astype(np.float32)
    items = pd.DataFrame({"item_id": np.arange(N_ITEMS) + (1 << 40), "embedding": list(vectors)})
    index = mp.index_frame(items, item_id="item_id", vectors="embedding", metric="cosine")
    mp.save_index(index, "items.index")
    searcher = mp.open_searcher(mp.load_index("items.index"), "faiss")
    users = items[:50].rename(columns={"item_id": "user_id"})
    found = mp.search_frame(searcher, users, k=K, query_id="user_id", n_probes=index.n_lists)
    best = found[found["rank"] == found["rank"].min()]
    assert (best["item_id"].to_numpy() == users["user_id"].to_numpy()).mean() > 0.9
    picture(index, vectors)


def picture(index: mp.Index, vectors: np.ndarray) -> None:
    queries, item_ids = vectors[:50], np.arange(N_ITEMS) + (1 << 40)
    exact = exact_search(item_ids, vectors, queries, k=K, metric="cosine")
    right = mp.IdLists(exact.offsets, exact.item_ids)
    searcher = mp.open_searcher(index)
    rows = [
        {
            "method": "merlin_poeem",
            "n_probes": n_probes,
            "recall_at_10": recall_at_k(searcher.search(queries, k=K, n_probes=n_probes), right, K),
            "items_scanned": items_scanned(index, queries, n_probes).mean(),
        }
        for n_probes in (1, 2, 4, 8)
    ]
    plots.plot_quality(rows, "recall_at_10", "From the wheel", "quality.png", n_items=N_ITEMS)
    assert Path("quality.png").read_bytes().startswith(b"\x89PNG")


def text_index() -> None:
    texts = [
        f"{who} {what}"
        for who in ("doctors", "farmers", "swimmers", "sailors")
        for what in ("win a medal", "ask for money", "save a whale", "open a hospital")
    ]
    frame = pd.DataFrame({"item_id": np.arange(len(texts)), "text": texts})
    encoder = open_encoder("wordllama")
    mp.TextIndex.build(frame, encoder, project_to=64).save("texts.index")
    found = mp.TextIndex.load("texts.index", encoder).search(texts, k=1)
    assert (found["query"] == found["text"]).mean() > 0.9


def raw_rows() -> None:
    for part in ("train", "test"):
        Path(f"sample_skeleton_{part}.csv").write_text("1,1,0,aa,1,205\x02900\x031.0\n")
        Path(f"common_features_{part}.csv").write_text("aa,1,101\x025\x031.0\n")
    assert aliccp.to_parquet(".", "ali-ccp").n_rows == 2
    assert pd.read_parquet("ali-ccp/train")["item_id"].tolist() == [900]


if __name__ == "__main__":
    is_of_this_environment()
    index_save_load_search()
    text_index()
    raw_rows()
    print("all done with", mp.__version__)
