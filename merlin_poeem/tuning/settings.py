"""What tune returns: the settings that it tried, and the one that it chose."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from merlin_poeem.index.index import Index

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Setting:
    """One way to search an index, and what was measured of it."""

    n_probes: int
    refine: int
    quality: float
    """Of the exact first k, the share found; or recall@k of the relevant items, where those were
    given. The mean over queries."""
    items_scanned: float
    """Items whose codes a query reads, the mean."""
    bytes_read: float
    """Bytes of codes, scales and stored vectors that a query reads, the mean."""
    milliseconds: float | None
    """Of one batch, the median; None where it was not timed."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """What :func:`~merlin_poeem.tune` found."""

    index: Index
    """The index given, with the setting that was chosen as its default."""
    setting: Setting
    """The one that was chosen."""
    settings: tuple[Setting, ...]
    """All that were measured, by ``n_probes`` and ``refine``."""
    target: float
    """The quality asked for: with ``relevant`` a share of what exact search has."""
    reached: bool
    """Whether ``setting`` has it."""

    def table(self) -> pd.DataFrame:
        """A row a setting; the columns are those of :class:`Setting`."""
        import pandas as pd

        columns = [field.name for field in fields(Setting)]
        return pd.DataFrame([asdict(setting) for setting in self.settings], columns=columns)

    def plot(self, path: str | Path) -> None:
        """A file of :func:`~merlin_poeem.plots.draw_settings`: quality against the bytes read.

        Its kind is that of ``path``'s ending, such as ``.png``. Needs matplotlib, which the extra
        ``plots`` brings.
        """
        from merlin_poeem.plots import plot_settings

        chosen = self.setting.n_probes, self.setting.refine
        plot_settings(self.table(), path, chosen=chosen, target=self.target)
