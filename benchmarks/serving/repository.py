"""The model repository of the benchmark: ours, and one written by hand of the same index."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss

from benchmarks.serving.material import Material
from merlin_poeem.convert.faiss import to_faiss
from merlin_poeem.serving import Serving, export_search

OURS, BY_HAND = "search", "hand_written"
HAND_WRITTEN = Path(__file__).with_name("hand_written.py")

CONFIG = """name: "{name}"
backend: "python"
max_batch_size: {most_rows}
input [ {{ name: "query_vector" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
output [
  {{ name: "item_ids" data_type: TYPE_INT64 dims: [ {k} ] }},
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {k} ] }}
]
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "k" value {{ string_value: "{k}" }} }}
"""


def write_repository(material: Material, path: Path, most_rows: int) -> Path:
    """Both models, in batches of at most ``most_rows``, each an instance; returns ``path``."""
    serving = Serving(most_rows=most_rows, device="cpu")
    export_search(
        material.index_path, path, name=OURS, k=material.k, backend="faiss", serving=serving
    )
    version = path / BY_HAND / "1"
    version.mkdir(parents=True)
    faiss.write_index(to_faiss(material.index), str(version / "index.faiss"))
    shutil.copy(HAND_WRITTEN, version / "model.py")
    config = CONFIG.format(name=BY_HAND, most_rows=most_rows, dim=material.index.dim, k=material.k)
    (version.parent / "config.pbtxt").write_text(config)
    return path
