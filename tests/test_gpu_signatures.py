"""Each call of cuDF, pylibcudf, CuPy and cuVS binds to what the releases take; no GPU is needed.

The releases' signatures are ``golden/gpu_signatures.json``, by ``golden/make_gpu_signatures.py``.
Whether a call does what it is meant to, only a GPU tells.
"""

from __future__ import annotations

import json
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search_gpu.cuvs_peers import VARIANTS
from tests.golden.make_gpu_signatures import read_cython, read_python
from tests.gpu_calls import LIBRARIES, MODULES, ROOT, Use, all_uses, methods_called, uses_in

TAKEN = json.loads((Path(__file__).parent / "golden" / "gpu_signatures.json").read_text())
# What our code asks of one release alone, once it has seen that it is there.
OF_ONE_RELEASE = {
    "cudf.Series.from_pylibcudf": "cudf-26.10.2",
    "cudf.core.column.as_column": "cudf-23.12.01",
    "cudf.core.column.build_list_column": "cudf-23.12.01",
}
USES = all_uses()


def releases_of(name: str) -> list[str]:
    """The releases that must have ``name``."""
    library = name.partition(".")[0]
    releases = [release for release in TAKEN if release.partition("-")[0] == library]
    return [OF_ONE_RELEASE[name]] if name in OF_ONE_RELEASE else releases


def fault_of(use: Use, release: str) -> str | None:
    """What ``release`` would say to ``use``; None where it takes it."""
    taken = TAKEN[release]
    if use.name not in taken:
        return f"{use.place}: {release} has no {use.name}"
    if use.n_positional is None:
        return None
    if taken[use.name] is None:
        return f"{use.place}: {use.name} of {release} is not called"
    signature = Signature(
        Parameter(name, Parameter.__dict__[kind], default=None if has_default else Parameter.empty)
        for name, kind, has_default in taken[use.name]
    )
    bind = signature.bind if use.is_whole else signature.bind_partial
    try:
        bind(*[None] * use.n_positional, **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{use.place}: {use.name} of {release}: {error}"
    return None


def faults(uses: list[Use]) -> list[str]:
    found = [fault_of(use, release) for use in uses for release in releases_of(use.name)]
    return [fault for fault in found if fault]


def test_every_call_binds() -> None:
    assert not faults(USES), (
        "where the call is right, write its signature down: see golden/make_gpu_signatures.py"
    )


def test_every_library_is_looked_at() -> None:
    assert {use.name.partition(".")[0] for use in USES} == set(LIBRARIES)
    assert {use.place.partition(":")[0] for use in USES} == set(MODULES)
    names = {use.name for use in USES}
    for release, taken in TAKEN.items():
        assert taken.keys() <= names, f"{release}: nobody calls {taken.keys() - names} any more"


@pytest.mark.parametrize("place", sorted(MODULES))
def test_what_the_table_names_is_there(place: str) -> None:
    source = (ROOT / place).read_text()
    for text, meant in MODULES[place].items():
        without = {name: each for name, each in MODULES[place].items() if name != text}
        if meant:
            assert uses_in(place, source, without) != uses_in(place, source, MODULES[place]), text


def test_no_call_in_the_thin_module_is_overlooked() -> None:
    place = "merlin_poeem/frames/cudf_calls.py"
    of_others = methods_called((ROOT / place).read_text(), MODULES[place])
    assert of_others == {
        "counts.values.astype",
        "pa.ListArray.from_arrays",
        "pa.array",
        "type(thing).__module__.partition",
    }


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_settings_of_cuvs(variant: str) -> None:
    keywords = ("n_probes", *VARIANTS[variant])
    use = Use("cuvs.neighbors.ivf_pq.SearchParams", "VARIANTS", 0, keywords)
    assert not faults([use])


PLANTED: list[tuple[str, dict[str, str], str]] = [
    ("xp.empty(3, typo=1)", {"xp": "cupy"}, "unexpected keyword argument 'typo'"),
    ("xp.empty(3, 4, 'C', 5)", {"xp": "cupy"}, "too many positional arguments"),
    ("xp.empty()", {"xp": "cupy"}, "missing a required argument: 'shape'"),
    ("xp.emptied(3)", {"xp": "cupy"}, "has no cupy.emptied"),
    ("self.xp.RawModule('code')", {"self.xp": "cupy"}, "too many positional arguments"),
    ("f(1, 2, 3, 4)", {"f": "cupy.RawKernel"}, "too many positional arguments"),
    ("column.to_arrow(1)", {"column": "cudf.Series"}, "too many positional arguments"),
    ("column.values()", {"column": "cudf.Series"}, "is not called"),
    ("column.nulls", {"column": "cudf.Series"}, "has no cudf.Series.nulls"),
    ("import cudf\ncudf.Series.from_cupy(x)", {}, "has no cudf.Series.from_cupy"),
    ("import pylibcudf as plc\nplc.Column(1)", {}, "missing a required argument: 'size'"),
    ("import pylibcudf as plc\nplc.TypeId.MAP", {}, "has no pylibcudf.TypeId.MAP"),
    (
        "from cudf.core.column import build_list_column as build\nbuild(elements=1, size=2)",
        {},
        "missing a required argument: 'indices'",
    ),
    (
        "from cuvs.neighbors import ivf_pq\nivf_pq.SearchParams(n_probe=1, **variant)",
        {},
        "unexpected keyword argument 'n_probe'",
    ),
    ("frame.fillna(method='ffill')", {"frame": "cudf.DataFrame"}, "missing a required argument"),
]


@pytest.mark.parametrize(("source", "stands_for", "message"), PLANTED)
def test_planted_faults_are_noticed(source: str, stands_for: dict[str, str], message: str) -> None:
    found = faults(uses_in("planted", source, stands_for))
    assert found
    assert all(message in fault for fault in found)


PYTHON = """
class Thing:
    @property
    def size(self): ...
    def take(self, rows, *, axis: int = 0): ...
    pick = take
    @staticmethod
    def make(data, /): ...
"""
CYTHON = """
cdef class Thing:
    @property
    def size(self):
        pass
    cpdef Thing take(self, object rows not None, *, int axis=0):
        pass
    def pick(self, rows, *,
             bint axis=(0)):
        pass
    @staticmethod
    def other():
        pass
"""


@pytest.mark.parametrize(("read", "text"), [(read_python, PYTHON), (read_cython, CYTHON)])
def test_signatures_are_read(read: Any, text: str) -> None:
    taken = [["rows", "POSITIONAL_OR_KEYWORD", False], ["axis", "KEYWORD_ONLY", True]]
    assert read(text, "Thing", "take") == read(text, "Thing", "pick") == (True, taken)
    assert read(text, "Thing", "size") == (True, None)
    for class_name, member in (("Thing", "sizes"), ("Other", "take"), ("", "take")):
        assert read(text, class_name, member) == (False, None)


def test_static_methods_are_read() -> None:
    taken = [["data", "POSITIONAL_ONLY", False]]
    assert read_python(PYTHON, "Thing", "make") == (True, taken)


def test_a_signature_of_each_kind_is_read() -> None:
    kinds: set[Any] = {
        kind for taken in TAKEN.values() for each in taken.values() for _, kind, _ in each or ()
    }
    assert kinds == {"POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY", "VAR_KEYWORD"}
