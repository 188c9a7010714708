"""Pictures out of executed notebooks."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

pytest.importorskip("nbformat")

import nbformat

from scripts.execute_notebooks import NOTEBOOKS
from scripts.notebook_pictures import KEY, main, take

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
LARGEST = 150_000


def executed(folder: Path, name: str, *pictures: bytes) -> None:
    cells = []
    for picture in pictures:
        output = nbformat.v4.new_output(
            "display_data", {"image/png": b64encode(picture).decode(), "text/plain": "<Figure>"}
        )
        table = nbformat.v4.new_output("display_data", {"text/plain": "a table"})
        cells.append(nbformat.v4.new_code_cell("1", outputs=[table, output]))
    metadata = {"merlin_poeem": {"environment": "current"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def test_takes_the_pictures_by_their_number(tmp_path: Path) -> None:
    for notebook in {notebook for notebook, _ in KEY.values()}:
        executed(tmp_path, notebook, b"first", b"second")
    main(["--executed", str(tmp_path), "--to", str(tmp_path / "out")])
    for name, (_, number) in KEY.items():
        assert (tmp_path / "out" / f"{name}.png").read_bytes() == (b"first", b"second")[number]


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an executed notebook, got none"):
        take("headline_lists", tmp_path, tmp_path)
    executed(tmp_path, "04_headline_search", b"first")
    with pytest.raises(ValueError, match="expected at least 2 pictures, got 1"):
        take("headline_lists", tmp_path, tmp_path)


def test_those_of_the_documentation_are_there_and_small() -> None:
    assert {path.stem for path in PICTURES.glob("*.png")} == set(KEY)
    for name, (notebook, _) in KEY.items():
        assert (PICTURES / f"{name}.png").stat().st_size < LARGEST
        assert (NOTEBOOKS / f"{notebook}.ipynb").is_file()
