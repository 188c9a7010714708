"""One Triton server for all tests here; each serves models of its own on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from merlin_poeem import Index, save_index
from merlin_poeem.serving import ServedModel, export_search
from workflows.serving.triton_server import (
    NoTritonServer,
    TritonServer,
    find_installation,
    triton_server,
)

Serve = Callable[..., ServedModel]


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server without models; skips the test where there is none to start."""
    try:
        find_installation()
    except NoTritonServer as missing:
        pytest.skip(f"needs a Triton server: {missing}")
    with triton_server(
        tmp_path_factory.mktemp("repository"), variables={"OMP_NUM_THREADS": "1"}
    ) as server:
        yield server


@pytest.fixture(scope="module")
def serve(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """``serve(index, name)`` exports an index and loads it, or its next version; gone at the end.

    More options are those of ``export_search``.
    """
    names = set()

    def export_and_load(index: Index, name: str, **options: Any) -> ServedModel:
        path = tmp_path_factory.mktemp("index") / "index"
        save_index(index, path)
        served = export_search(path, triton.repository, name=name, **options)
        names.add(name)
        triton.load(name)
        return served

    yield export_and_load
    for name in names:
        triton.unload(name)
