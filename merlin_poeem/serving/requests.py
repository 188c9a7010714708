"""What a request asks for: its rows, the items that it filters, and each row's own options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merlin_poeem.arrays import Int64
from merlin_poeem.index.index import Index
from merlin_poeem.search.ragged import IdLists, offsets_of
from merlin_poeem.search.request import check_refine
from merlin_poeem.serving.input_spec import TEXT, InputSpec
from merlin_poeem.serving.inputs import (
    COUNT,
    Arrays,
    Column,
    concatenated,
    n_rows_of,
    read_column,
    read_integers,
    read_lists,
)
from merlin_poeem.serving.own_options import OF_INDEX, OPTIONS

FILTERS = ("exclude", "allow")


@dataclass(frozen=True)
class Limits:
    """What requests may ask for, and get without asking."""

    k: int
    """Candidates a row where the request does not say."""
    largest_k: int
    """That a row may ask for: answers are (n, k)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request that was read and checked, or several of the same inputs together."""

    columns: dict[str, Column]
    """By the input's name."""
    wanted: Int64
    """(n, 3) int64, of each row the ``OPTIONS``."""
    exclude: IdLists | None
    allow: IdLists | None

    def __len__(self) -> int:
        return len(self.wanted)

    @property
    def kind(self) -> tuple[frozenset[str], bool, bool]:
        """Requests of the same kind can be answered together."""
        return frozenset(self.columns), self.exclude is None, self.allow is None

    @classmethod
    def read(
        cls, arrays: Arrays, inputs: Sequence[InputSpec], index: Index, limits: Limits
    ) -> Asked:
        """Of the tensors of a request, by name.

        Raises ``TypeError`` or ``ValueError`` naming the tensor, on anything but what is expected.
        """
        n_rows = n_rows_of(arrays)
        known = {name for spec in inputs for name in (spec.name, spec.name + COUNT)}
        known |= {*OPTIONS, *(name + end for name in FILTERS for end in ("", COUNT))}
        for name in arrays:
            if name not in known:
                raise ValueError(f"{name}: expected one of {sorted(known)}")
        columns = {spec.name: read_column(spec, arrays) for spec in inputs}
        return cls(
            {name: column for name, column in columns.items() if column is not None},
            _options(arrays, n_rows, index, limits),
            *(_id_lists(name, arrays, index) for name in FILTERS),
        )

    @classmethod
    def together(cls, asked: Sequence[Asked]) -> Asked:
        """The rows of requests of one kind, one after the other."""
        if len(asked) == 1:
            return asked[0]
        columns = {
            name: concatenated([one.columns[name] for one in asked]) for name in asked[0].columns
        }
        return cls(
            columns,
            np.concatenate([one.wanted for one in asked]),
            _joined([one.exclude for one in asked]),
            _joined([one.allow for one in asked]),
        )


def _joined(parts: Sequence[IdLists | None]) -> IdLists | None:
    lists = [part for part in parts if part is not None]
    if not lists:
        return None
    lengths = np.concatenate([part.lengths for part in lists])
    return IdLists(offsets_of(lengths), np.concatenate([part.values for part in lists]))


def _options(arrays: Arrays, n_rows: int, index: Index, limits: Limits) -> Int64:
    """(n_rows, 3) int64, within their ranges."""
    wanted = np.empty((n_rows, len(OPTIONS)), np.int64)
    wanted[:] = limits.k, index.params.n_probes, OF_INDEX
    for place, name in enumerate(OPTIONS):
        if name in arrays:
            wanted[:, place] = read_integers(name, arrays)
    _check_range("k", wanted[:, 0], limits.largest_k)
    _check_range("n_probes", wanted[:, 1], index.n_lists)
    if "refine" in arrays:
        for refine in np.unique(wanted[:, 2]).tolist():
            check_refine(index, refine)
    return wanted


def _check_range(name: str, values: Int64, largest: int) -> None:
    wrong = np.flatnonzero((values < 1) | (values > largest))
    if len(wrong):
        raise ValueError(
            f"{name}: expected 1 to {largest}, got {values[wrong[0]]} in row {wrong[0]}"
        )


def _id_lists(name: str, arrays: Arrays, index: Index) -> IdLists | None:
    keys = index.item_keys
    column = read_lists(name, "int64" if keys is None else TEXT, arrays)
    if column is None:
        return None
    assert column.offsets is not None
    ids = column.values if keys is None else keys.ids_of(column.values, name)
    return IdLists(column.offsets, ids)
