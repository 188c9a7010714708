"""A made-up Ali-CCP in the publisher's raw format: a file of samples, one of common features."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa

from merlin_poeem.datasets.aliccp.fields import HEAD, SAMPLE_FIELDS, USER_FIELDS, Field
from workflows.aliccp.simulation.impressions import PARTS, draw_sessions
from workflows.aliccp.simulation.mix import mix
from workflows.aliccp.simulation.world import World


def write_raw(world: World, n_rows: int, folder: Path, part: str) -> None:
    """``sample_skeleton_{part}.csv`` and ``common_features_{part}.csv`` as the publisher's."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / f"sample_skeleton_{part}.csv").open("w", newline="\n") as skeleton,
        (folder / f"common_features_{part}.csv").open("w", newline="\n") as common,
    ):
        n_sessions = 0
        for users, session, rows in draw_sessions(world, n_rows, part):
            keys = [_key(part, n_sessions + i) for i in range(len(users))]
            n_used = int(session[-1]) + 1
            _write_common(common, keys[:n_used], users.slice(0, n_used))
            _write_skeleton(skeleton, [keys[i] for i in session], rows)
            n_sessions += len(keys)


def _write_common(file: TextIO, keys: list[str], users: pa.Table) -> None:
    for key, features in zip(keys, _feature_texts(users, USER_FIELDS), strict=True):
        file.write(f"{key},{len(features)},{chr(1).join(features)}\n")


def _write_skeleton(file: TextIO, keys: list[str], rows: pa.Table) -> None:
    heads = zip(*(rows[name].to_pylist() for name, _ in HEAD), strict=True)
    texts = _feature_texts(rows, SAMPLE_FIELDS)
    for (sample, click, bought), key, features in zip(heads, keys, texts, strict=True):
        file.write(f"{sample},{click},{bought},{key},{len(features)},{chr(1).join(features)}\n")


def _feature_texts(table: pa.Table, fields: tuple[Field, ...]) -> list[list[str]]:
    """The features of each row as raw text."""
    texts: list[list[str]] = [[] for _ in range(table.num_rows)]
    for one in fields:
        values = table[one.name].to_pylist()
        weights = table[one.weights].to_pylist() if one.is_weighted else [None] * len(values)
        for row, value, weight in zip(texts, values, weights, strict=True):
            ids = (value if one.is_list else [value]) if value is not None else []
            for at, number in enumerate(ids):
                text = "1.0" if weight is None else f"{weight[at]:.4f}"
                row.append(f"{one.number}\x02{number}\x03{text}")
    return texts


def _key(part: str, session: int) -> str:
    """The common feature key: 16 hexadecimal digits, another for every session."""
    number = np.array([session + (PARTS.index(part) << 40)])
    return f"{int(mix(number)[0]):015x}{PARTS.index(part):x}"
