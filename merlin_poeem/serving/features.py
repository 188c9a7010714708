"""The columns that a tower reads, and whether values have a place in them. Without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.arrays import Int64


@dataclass(frozen=True)
class TowerFeature:
    """A column that a tower reads."""

    name: str
    dtype: str | None
    """Of its values, such as ``"int64"``; None, where the schema names none, takes any number."""

    length: int | None
    """Values per row: 0 one, not in a list; None lists of any length; else lists of that many."""

    largest: int | None = None
    """The last row of its embedding table; None where it has none."""

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Of the tensors that carry it, in Merlin's layout for list columns."""
        if self.length is None:
            return f"{self.name}__values", f"{self.name}__offsets"
        return (self.name,)

    def tensors(self, values: NDArray[Any], offsets: Int64 | None) -> dict[str, NDArray[Any]]:
        """The tensors that carry it, with offsets in int32, as saved towers take them.

        ``values`` (n,), or (n, length); of lists of any length (total,), and ``offsets`` (n + 1,).
        """
        parts = (values,) if offsets is None else (values, offsets.astype(np.int32))
        return dict(zip(self.tensor_names, parts, strict=True))

    def checked(self, values: NDArray[Any], offsets: Int64 | None = None) -> NDArray[Any]:
        """The values in the dtype of the tower, where all of them have a place in it.

        Raises
        ------
        TypeError
            Values of another kind than the tower's, such as floats for ids.
        ValueError
            Values that are not finite, do not fit in the tower's dtype, or are outside the schema's
            domain: with the first such row, which ``offsets`` tell of lists.
        """
        if not len(values):
            return np.empty(0, self.dtype or np.int64)
        dtype = np.dtype(self.dtype or values.dtype)
        if dtype.kind not in "iuf" or not np.can_cast(values.dtype, dtype, "same_kind"):
            got = type(values[0]).__name__ if values.dtype == object else values.dtype
            raise TypeError(
                f"column {self.name!r}: expected {self.dtype or 'numbers'}, got {got}; give the "
                "column as the workflow made it for the model"
            )
        with np.errstate(over="ignore"):  # infinity is named below
            cast = values.astype(dtype, copy=False)
        if cast.dtype.kind == "f":
            self._check_values(np.isfinite(cast), "finite values", values, offsets)
            return cast
        self._check_values(cast == values, f"values that fit in {dtype}", values, offsets)
        if self.largest is not None:
            # Beyond it TensorFlow finds nothing, and on a GPU makes zeros of it without a word.
            has_place = (cast >= 0) & (cast <= self.largest)
            expected = f"values from 0 to {self.largest}, the schema's domain"
            self._check_values(has_place, expected, values, offsets)
        return cast

    def check_lengths(self, lengths: Int64) -> None:
        """``ValueError`` with the first row whose list is of another length than the tower's."""
        if self.length is not None:
            self.check_rows(lengths == self.length, f"lists of {self.length}", "another length")

    def check_rows(self, holds: NDArray[np.bool_], expected: str, got: str) -> None:
        """``ValueError`` with the first row where something does not hold."""
        wrong = np.flatnonzero(~holds)
        if len(wrong):
            raise ValueError(
                f"column {self.name!r}: expected {expected}, got {got} in row {wrong[0]}"
            )

    def _check_values(
        self,
        holds: NDArray[np.bool_],
        expected: str,
        values: NDArray[Any],
        offsets: Int64 | None,
    ) -> None:
        if holds.all():
            return
        place = int(holds.argmin())
        row = place if offsets is None else int(np.searchsorted(offsets, place, "right")) - 1
        raise ValueError(
            f"column {self.name!r}: expected {expected}, got {values[place]} in row {row}"
        )
