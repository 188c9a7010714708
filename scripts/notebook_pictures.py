"""Take the key pictures out of executed notebooks into docs/pictures/.

make notebooks
python -m scripts.notebook_pictures [NAME ...]
"""

from __future__ import annotations

import argparse
from base64 import b64decode
from pathlib import Path

from scripts.execute_notebooks import REPOSITORY, read

# Of each picture: its notebook, and its number among the pictures there.
KEY = {
    "headline_search": ("04_headline_search", 0),
    "headline_lists": ("04_headline_search", 1),
}


def pictures_of(path: Path) -> list[bytes]:
    """The PNG files among the outputs of a notebook, in order."""
    outputs = [output for cell in read(path).cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}).get("image/png") for output in outputs]
    return [b64decode(picture) for picture in shown if picture]


def take(name: str, executed: Path, to: Path) -> Path:
    """Write the picture ``name`` to the folder ``to``; returns its path.

    ``FileNotFoundError`` where its notebook was not executed, ``ValueError`` where that shows fewer
    pictures.
    """
    notebook, number = KEY[name]
    path = executed / f"{notebook}.ipynb"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an executed notebook, got none: make notebooks")
    found = pictures_of(path)
    if len(found) <= number:
        raise ValueError(f"{path}: expected at least {number + 1} pictures, got {len(found)}")
    to.mkdir(parents=True, exist_ok=True)
    written = to / f"{name}.png"
    written.write_bytes(found[number])
    return written


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"else all: {', '.join(KEY)}")
    parser.add_argument("--executed", type=Path, default=REPOSITORY / "results" / "notebooks")
    parser.add_argument("--to", type=Path, default=REPOSITORY / "docs" / "pictures")
    options = parser.parse_args(arguments)
    for name in options.names or KEY:
        print(take(name, options.executed, options.to))


if __name__ == "__main__":
    main()
