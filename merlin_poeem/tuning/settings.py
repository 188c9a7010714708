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
        """A picture of quality against the bytes read, a curve for each ``refine``.

        Its kind is that of ``path``'s ending, such as ``.png``. Needs matplotlib.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for refine in sorted({setting.refine for setting in self.settings}):
            curve = [setting for setting in self.settings if setting.refine == refine]
            costs = [setting.bytes_read for setting in curve]
            axes.plot(costs, [s.quality for s in curve], marker=".", label=f"refine {refine}")
        chosen = self.setting
        label = f"chosen: n_probes {chosen.n_probes}, refine {chosen.refine}"
        axes.plot([chosen.bytes_read], [chosen.quality], "ko", fillstyle="none", ms=12, label=label)
        axes.axhline(self.target, color="0.6", linestyle="--", label=f"target {self.target:.3g}")
        axes.set_xscale("log")
        axes.set_xlabel("bytes read per query")
        axes.set_ylabel("quality")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=150)
