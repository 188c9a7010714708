"""What a newcomer reads who has not installed what a room needs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from merlin_poeem.optional import EXTRAS, needed_by

# None in sys.modules is what Python finds no module by.
SCRIPT = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None
try:
    exec(sys.argv[1])
except ImportError as error:
    print(error)
"""

UV = r"uv pip install .*-r requirements/merlin\.txt .*pip refuses some of Merlin's packages"


def told(statement: str, absent: str) -> str:
    """What ``statement`` says where the packages ``absent`` are not installed."""
    command = [sys.executable, "-c", SCRIPT, statement, absent]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("statement", "absent", "message"),
    [
        ("import merlin_poeem.blocks", "tensorflow merlin", rf"poeem\.blocks needs .*: {UV}"),
        (
            "from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer",
            "tensorflow merlin",
            rf"poeem\.blocks needs .*\(extra: train\).* \(this is {sys.version_info[0]}\.",
        ),
        ("import merlin_poeem.ops", "merlin nvtabular", rf"poeem\.ops needs (merlin|nvt).*: {UV}"),
        ("import merlin_poeem.systems", "merlin", rf"poeem\.systems needs merlin.*: {UV}"),
        (
            "import merlin_poeem.distributed",
            "dask",
            r"poeem\.distributed needs dask, which is not installed: "
            r"pip install 'dask\[dataframe\]' distributed \(extra: dask\)",
        ),
    ],
)
def test_a_room_says_what_installs_what_it_needs(statement: str, absent: str, message: str) -> None:
    text = told(statement, absent)
    assert re.search(message, text), text


def test_exporting_for_triton_says_so_when_it_is_asked_for() -> None:
    pytest.importorskip("merlin.dag")
    statement = "from merlin_poeem.systems import QueryPoeem; print('served'); "
    statement += "from merlin_poeem.systems import export_ensemble"
    text = told(statement, "tensorflow")
    assert re.search(r"^served\n.*systems\.export_ensemble needs tensorflow, .*uv", text), text


def test_a_package_that_is_there_says_itself_what_is_wrong() -> None:
    with pytest.raises(ImportError, match=r"^libcublas\.so$"), needed_by("fit", "cpu"):
        raise ImportError("libcublas.so")


def test_what_is_missing_of_the_package_itself_is_no_matter_of_extras() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r"^No module named 'merlin_poeem\.absent'$"),
        needed_by("fit", "cpu"),
    ):
        import merlin_poeem.absent  # noqa: F401


def test_every_extra_is_one_of_the_project() -> None:
    metadata = pytest.importorskip("tomllib")  # from Python 3.11 on
    with open("pyproject.toml", "rb") as file:
        extras = metadata.load(file)["project"]["optional-dependencies"]
    assert extras.keys() >= EXTRAS.keys()
