"""Every notebook runs from its first cell to its last, at small scale, and finds what it says.

Each runs in the environment that its metadata name, in a kernel of this interpreter. With
``MERLIN_POEEM_DATA`` on real data, without it on what the notebook puts in their place.
"""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("nbclient")

import nbformat
from nbclient.exceptions import CellExecutionError

from scripts.execute_notebooks import NOTEBOOKS, environment_of, execute, main, read, strip

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
HERE = "merlin" if find_spec("nvtabular") else "current"
TIMEOUT_SECONDS = 600
REPORT = "import json; print('RESULTS', json.dumps(results, default=float))"


def number_of_pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def results_of(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """What the injected last cell printed."""
    printed = "".join(o["text"] for o in notebook.cells[-1].outputs if o.output_type == "stream")
    return json.loads(re.search(r"^RESULTS (.*)$", printed, re.MULTILINE).group(1))


def check_your_own_data(results: dict) -> None:
    assert results["exact"] > 0.15 > 10 * results["popular"]
    assert results["ours"] > 0.9 * results["exact"]
    assert results["quality_of_setting"] >= 0.99
    assert results["share_scanned"] < 0.8
    assert results["leaks"] == 0
    assert results["near_new_item"] >= 0.5  # a twentieth of the products by chance
    assert results["same_from_folders"] == results["same_served"] == 1
    assert results["without_tensorflow"]


def check_poeem_tutorial(results: dict) -> None:
    # A ranking without any sense gives 0.17.
    assert min(results["exact"], results["exact_plain"]) > 0.22
    assert results["ours"] > 0.85 * max(results["exact"], results["exact_plain"])
    assert results["ours_one_probe"] > 0.9 * results["faiss_one_probe"]
    assert results["longest_over_mean_list"] < 2
    assert results["same_in_graph"] > 0.99  # scores may tie within rounding


def check_aliccp(results: dict) -> None:
    if os.environ.get("MERLIN_POEEM_DATA"):
        assert results["real_rows"] == 318
    assert results["malformed_raw_lines"] == 1
    assert results["most_popular"] < results["exact"] < results["best_possible"]
    assert results["ours"] > 0.8 * results["exact"]
    assert results["candidates_a_user"] == 10
    assert results["same_in_workflow"] > 0.99
    assert results["leaks"] == 0
    assert results["codes_known"] == 3


def check_movielens(results: dict) -> None:
    assert results["films_100k"] > 1_600
    assert results["films_1m"] > 3_000
    # Chance finds 0.012 of them; simulated tastes are harder to learn in a few steps.
    assert results["exact_100k"] > (0.2 if os.environ.get("MERLIN_POEEM_DATA") else 0.08)
    assert results["ours_100k"] > 0.85 * results["exact_100k"]
    assert results["ours_1m"] > 0.85 * results["exact_1m"]
    assert results["agreement_with_exact"] > 0.6
    assert results["by_merlin"] == pytest.approx(results["by_search"], rel=0.1)
    assert results["in_common_near"] > 1.5 * results["in_common_any"]
    assert results["genre_near"] > 1.3 * results["genre_any"]
    assert results["for_new_user"] == 5
    assert results["same_in_graph"] > 0.99
    assert results["leaks"] == 0


def check_headline_search(results: dict) -> None:
    if os.environ.get("MERLIN_POEEM_DATA"):
        assert results["headlines"] == 74_399
    assert results["agreement_all_lists"] > 0.5
    assert results["agreement"] > 0.7 * results["agreement_all_lists"]
    assert results["agreement_second_look"] > results["agreement"] + 0.03
    assert results["tuned_reached"]
    assert results["agreement_tuned"] > 0.85  # of headlines that it was not tuned by
    assert results["finds_itself"] > 0.95
    assert results["projected_headlines"] > 1_000


def check_ready_made_embeddings(results: dict) -> None:
    assert results["leaks"] == results["itself"] == 0
    assert results["films_in_common_near"] > results["films_in_common_far"]
    assert results["ours"] > 0.9 * results["exact"]
    assert results["agreement_with_exact"] > 0.9
    assert results["flat_as_faiss"] > 0.999  # of equal distances either may come first
    assert results["same_by_key"]
    assert results["same_flat_by_key"]


def check_gpu_search(results: dict) -> None:
    assert results["backend"] in ("gpu", "faiss")
    assert results["exact"] > (0.1 if os.environ.get("MERLIN_POEEM_DATA") else 0.02)
    assert results["ours"] > 0.9 * results["exact"]
    assert results["agreement"] > 0.8
    assert results["agreement_second_look"] > results["agreement"]
    for name in ("leaks", "closed_found", "outside_campaign", "removed_found"):
        assert results[name] == 0, name
    assert results["same_after_extend"] == 1


CHECKS = {
    "00_your_own_data": check_your_own_data,
    "01_poeem_tutorial": check_poeem_tutorial,
    "02_aliccp_two_tower": check_aliccp,
    "03_movielens_retrieval": check_movielens,
    "04_headline_search": check_headline_search,
    "05_ready_made_embeddings": check_ready_made_embeddings,
    "06_gpu_search": check_gpu_search,
}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_runs_and_finds_what_it_should(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    environment = environment_of(notebook)
    if environment != HERE:
        pytest.skip(f"runs in the environment {environment}, this one is {HERE}")
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    # One thread each: test processes and notebooks share the machine.
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
    )
    execute(
        notebook,
        tmp_path,
        timeout=TIMEOUT_SECONDS,
        environment={"MERLIN_POEEM_SMALL": "1", **threads},
    )
    assert number_of_pictures(notebook) >= 1
    results = results_of(notebook)
    assert results
    CHECKS[path.stem](results)
    assert list(tmp_path.iterdir()) == []


DECIDES = (
    "ops.Categorify(",
    "ops.TagAsItemID(",
    "mm.",
    "IVFPQQuantizer",
    "QuantizedRecall(",
    ".compile(",
    ".fit(",
    "export_index(",
    "workflow=workflow",
    "recommend(",
)


@pytest.mark.parametrize("name", [n for n in NAMES if n[:2] in ("01", "02", "03")])
def test_what_trains_is_shown(name: str) -> None:
    """Workflow, towers, quantizer, training and export are in the cells, not in a helper."""
    cells = read(NOTEBOOKS / f"{name}.ipynb").cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert [line for line in DECIDES if line not in code] == []
    assert not re.search(r"workflows\S*\b(features|towers|training|numbering)\b", code)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_is_committed_clean(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.id
            assert cell.execution_count is None, cell.id
    text = path.read_text()
    for found in re.findall(
        r"(?<![\w.])/(?:home|root|tmp|work|workspace|Users|mnt)/[\w./-]*", text
    ):
        pytest.fail(f"expected no path of a machine, got {found}")
    assert 10 <= len(notebook.cells) <= 30


def test_every_notebook_is_there() -> None:
    assert set(NAMES) == set(CHECKS)


def notebook_of(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"merlin_poeem": {"environment": "current"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def test_a_failing_cell_fails_with_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(notebook_of("print('before')", "def f():\n    return 1 / 0\nf()"), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError") as raised:
        main([str(path), "--to", str(tmp_path / "out")])
    assert "return 1 / 0" in str(raised.value)
    written = read(tmp_path / "out" / path.name)
    assert [cell.outputs[0].output_type for cell in written.cells] == ["stream", "error"]
    assert read(path).cells[0].outputs == []


def test_the_script_passes_over_other_environments_and_strips(tmp_path: Path) -> None:
    path = tmp_path / "small.ipynb"
    notebook = notebook_of("1 + 1")
    notebook.cells[0].execution_count = 3
    nbformat.write(notebook, path)
    main([str(path), "--environment", "merlin", "--to", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    main([str(path), "--strip"])
    assert read(path).cells[0].execution_count is None


def test_strip_removes_what_running_leaves() -> None:
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=7, metadata={"scrolled": True})
    cell.outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"merlin_poeem": {"environment": "current"}, "widgets": {}}
    )
    strip(notebook)
    assert (cell.outputs, cell.execution_count, cell.metadata) == ([], None, {})
    assert environment_of(notebook) == "current"
    assert "widgets" not in notebook.metadata


def test_the_environment_must_be_named() -> None:
    with pytest.raises(ValueError, match=r"merlin_poeem\.environment"):
        environment_of(nbformat.v4.new_notebook())
