"""The Python of pages that need no TensorFlow; every page's runs somewhere, or says why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import merlin_poeem as mp
from merlin_poeem.quantization.params import Metric
from tests.docs.pages import DOCS, PAGES, is_run, python_blocks, run_page
from tests.index_factories import random_index

# Pages are for the newest releases: one environment is enough.
pytestmark = pytest.mark.once

# In tests/docs/test_training_pages.py and test_your_own_data.py.
NEED_TENSORFLOW = {
    "merlin.md",
    "migrating.md",
    "serving.md",
    "serving_tensorflow.md",
    "your_own_data.md",
}
NOT_RUN = {"gpu.md": 3, "serving.md": 1, "serving_tensorflow.md": 1}
RUN_HERE = {"choosing.md", "distributed.md", "formats.md", "index.md", "searching.md"}


def test_every_block_runs_somewhere_or_says_why_not() -> None:
    with_python = {page for page in PAGES if any(map(is_run, python_blocks(page)))}
    assert with_python == NEED_TENSORFLOW | RUN_HERE
    not_run = {page: sum(not is_run(block) for block in python_blocks(page)) for page in PAGES}
    assert {page: count for page, count in not_run.items() if count} == NOT_RUN


def test_the_first_search_finds_the_vectors_themselves(tmp_path: Path) -> None:
    names = run_page("index.md", tmp_path, {})
    found = mp.with_items(names["found"], names["index"])
    assert list(found.columns) == ["user_id", "rank", "item_id", "score", "title"]
    best = found[found["rank"] == 1].set_index("user_id")["title"]
    assert best.to_dict() == {"ann": "item 0", "bob": "item 1"}


def test_search_and_filters(tmp_path: Path) -> None:
    names = run_page("searching.md", tmp_path, {})
    assert not set(names["found"][0][1]) & {1, 2}
    assert mp.load_index(tmp_path / "items.index").n_items == 1000
    assert len(names["exact"]) == 3


def test_tuning_reaches_its_target(tmp_path: Path) -> None:
    names = run_page("choosing.md", tmp_path, {})
    assert names["tuned"].reached
    assert names["tuned"].setting.quality >= 0.95
    saved = mp.load_index(tmp_path / "items.index")
    assert saved.params.n_probes == names["tuned"].setting.n_probes


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_a_saved_index_is_read_without_the_package(metric: Metric, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 16)).astype(np.float32)
    params = mp.IVFPQParams(n_lists=4, pq_dim=4, metric=metric)
    index = mp.Index.from_vectors(params, mp.fit(params, vectors), np.arange(600) * 7, vectors)
    mp.save_index(index, tmp_path / "items.index")
    names = run_page("formats.md", tmp_path, {})
    expected = index.decode(names["arrays"]["item_ids"])
    np.testing.assert_allclose(names["decoded"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(names["back"].codes, index.codes)


def test_a_stretched_index_is_read_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index(rotation="stretched", pq_bits=8)
    mp.save_index(index, tmp_path / "items.index")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in python_blocks("formats.md")[:2]:
        exec(block, names)
    expected = index.decode(names["arrays"]["item_ids"])
    np.testing.assert_allclose(names["decoded"], expected, rtol=1e-5, atol=1e-5)


def test_over_a_dask_cluster(tmp_path: Path) -> None:
    pytest.importorskip("dask.dataframe")
    rng = np.random.default_rng(0)

    def frame(n: int) -> pd.DataFrame:
        return pd.DataFrame({"embedding": list(rng.standard_normal((n, 16)).astype(np.float32))})

    for name, rows, ids in (("items", 600, "item_id"), ("users", 8, "user_id")):
        (tmp_path / name).mkdir()
        rows_of = frame(rows).assign(**{ids: np.arange(rows)})
        if name == "users":
            rows_of["seen_items"] = [[user] for user in range(rows)]
        rows_of.to_parquet(tmp_path / name / "part.0.parquet")
    (tmp_path / "shared").mkdir()
    instead = {'Client("scheduler:8786")': "None", "/shared/": "shared/"}
    names = {"params": mp.IVFPQParams(n_lists=4, pq_dim=4)}
    names = run_page("distributed.md", tmp_path, names, instead)
    candidates = pd.read_parquet(tmp_path / "candidates")
    assert len(candidates) == 8 * 100
    assert (candidates["item_id"] != candidates["user_id"]).all()
    assert names["found"].compute()["rank"].max() == 100


def test_pages_link_to_pages_that_are_there() -> None:
    """Sphinx checks links between pages; these are of README, which it does not see."""
    readme = (DOCS.parent / "README.md").read_text()
    linked = re.findall(r"\]\((docs/[^)#]+)", readme)
    assert linked
    assert all((DOCS.parent / path).is_file() for path in linked)
