"""What a reading finds: every line is either a row or a located entry of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class MalformedLine:
    """A line that is no row, and why."""

    path: Path
    number: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}: {self.reason}"


@dataclass
class Report:
    """What a reading found; complete when its last table has come."""

    max_malformed: int = 0
    """More malformed lines than this end the reading with ``ValueError``."""
    n_rows: int = 0
    malformed: list[MalformedLine] = field(default_factory=list)
    """Every line that became no row."""
    unknown_fields: Counter[str] = field(default_factory=Counter)
    """Values of fields that Ali-CCP does not have, by field: they are in no column."""
    n_without_common: int = 0
    """Rows whose common features are not in their file: kept, their user columns are null."""
    n_without_user: int = 0
    """Rows without user id, as the real set has them: kept."""
    n_without_item: int = 0
    """Rows without item id: kept."""
    n_converted_unclicked: int = 0
    """Rows with a conversion but no click, which cannot be: kept as they are."""

    def refuse(self, path: Path, number: int, reason: str) -> None:
        """Note a malformed line; ``ValueError`` when it is one too many."""
        self.malformed.append(MalformedLine(path, number, reason))
        if len(self.malformed) > self.max_malformed:
            shown = "; ".join(str(line) for line in self.malformed[:3])
            raise ValueError(
                f"expected at most {self.max_malformed} malformed lines, got "
                f"{len(self.malformed)} so far ({shown})"
            )

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that was read."""
        self.n_rows += table.num_rows
        self.n_without_user += table["user_id"].null_count
        self.n_without_item += table["item_id"].null_count
        click, conversion = (table[name].to_numpy() for name in ("click", "conversion"))
        self.n_converted_unclicked += int(np.sum((conversion == 1) & (click == 0)))

    def __str__(self) -> str:
        lines = [f"{self.n_rows:,} rows, {len(self.malformed)} malformed lines"]
        lines += [f"  {line}" for line in self.malformed]
        for number, count in sorted(self.unknown_fields.items()):
            lines.append(f"  {count:,} values of the unknown field {number} left out")
        for count, what in (
            (self.n_without_common, "without common features: user columns are null"),
            (self.n_without_user, "without user id"),
            (self.n_without_item, "without item id"),
            (self.n_converted_unclicked, "with a conversion but no click"),
        ):
            if count:
                lines.append(f"  {count:,} rows {what}")
        return "\n".join(lines)
