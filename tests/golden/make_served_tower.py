"""Write ``served-tower/`` and what it gives: ``python -m tests.golden.make_served_tower``.

A tower for ONNX Runtime with every kind of column, for tests where there is no TensorFlow.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import merlin.models.tf as mm
import tensorflow as tf
from merlin.io import Dataset

from merlin_poeem.blocks import query_vectors
from merlin_poeem.blocks.export.served_tower import save_served_tower
from tests.systems.toy import SCHEMA, USERS, features, mlp

FOLDER = Path(__file__).with_name("served-tower")
EXAMPLE = Path(__file__).with_name("served-tower.json")
N_ROWS = 9


def main() -> None:
    tf.keras.utils.set_random_seed(0)
    model = mm.TwoTowerModel(SCHEMA, mlp())
    row = USERS[:2].assign(item_id=[0, 1])
    model(next(iter(mm.Loader(Dataset(row, schema=SCHEMA), batch_size=2)))[0])
    shutil.rmtree(FOLDER, ignore_errors=True)
    save_served_tower(model, FOLDER, runtime="onnx")
    _, vectors = query_vectors(model, USERS[:N_ROWS])
    example = {
        "tensors": {name: tensor.tolist() for name, tensor in features(N_ROWS).items()},
        "vectors": vectors.tolist(),
    }
    EXAMPLE.write_text(json.dumps(example) + "\n")


if __name__ == "__main__":
    main()
