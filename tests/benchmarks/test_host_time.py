"""The host's share of a search: the program runs, and a search that comes again asks for little."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.host_time import DIM, N_PROBES, K, NoArray, main, open_searcher

pytestmark = pytest.mark.once

UNRECORDED = 16385
"""The smallest batch that no graph serves."""


def test_a_row_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "host_time.json"
    main(["--batches", "1", "40", "--output", str(output)])
    rows = json.loads(output.read_text())
    assert [row["batch"] for row in rows] == [1, 40]
    assert all(row["microseconds"] > 0 for row in rows)
    assert rows[0]["modelled_microseconds"] == rows[0]["microseconds"] + 5 * 4
    assert "with CuPy, assumed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("batch", "asked"),
    [
        # The graph, the queries into its memory, the results out of it.
        (1, {"launch": 1, "copy": 2, "allocation": 1}),
        (1024, {"launch": 1, "copy": 2, "allocation": 1}),
        # The places that are left over are filled.
        (1000, {"launch": 1, "copy": 3, "allocation": 1}),
        (UNRECORDED, {"launch": 5, "allocation": 1}),
    ],
)
def test_what_a_search_that_comes_again_asks_for(batch: int, asked: dict[str, int]) -> None:
    searcher, device = open_searcher()
    queries = NoArray((batch, DIM), np.float32, device.calls)
    for _ in range(2):
        device.calls.clear()
        searcher.search_padded(queries, k=K, n_probes=N_PROBES)
    assert dict(device.calls) == asked
