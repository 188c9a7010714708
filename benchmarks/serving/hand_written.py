"""What one would write by hand for Triton's Python backend: Faiss, and nothing checked.

It becomes ``model.py`` of a model repository and is imported by Triton alone.
"""

import json
from pathlib import Path

import faiss
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Query vectors in, the best items of an IVF-PQ index out."""

    def initialize(self, args: dict) -> None:
        """Read the index of this version."""
        folder = Path(args["model_repository"], args["model_version"])
        self.index = faiss.read_index(str(folder / "index.faiss"))
        self.k = int(json.loads(args["model_config"])["parameters"]["k"]["string_value"])

    def execute(self, requests: list) -> list:
        """One search for all requests that Triton has put together."""
        given = [pb_utils.get_input_tensor_by_name(each, "query_vector") for each in requests]
        queries = [each.as_numpy() for each in given]
        scores, item_ids = self.index.search(np.concatenate(queries), self.k)
        responses, start = [], 0
        for each in queries:
            rows = slice(start, start + len(each))
            start = rows.stop
            outputs = [
                pb_utils.Tensor("item_ids", item_ids[rows]),
                pb_utils.Tensor("scores", scores[rows]),
            ]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
