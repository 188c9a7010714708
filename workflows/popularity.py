"""How popular an item is, as a feature for ``LengthByPopularity``."""

from __future__ import annotations

import numpy as np
import pandas as pd
from merlin.schema import ColumnSchema, Tags

from merlin_poeem.arrays import Int64

POPULARITY = ColumnSchema("item_popularity", dtype=np.float32, tags=[Tags.ITEM, Tags.CONTINUOUS])


def with_popularity(frame: pd.DataFrame, item: str, frequencies: Int64) -> pd.DataFrame:
    """``frame`` with the logarithm of each item's training pairs, less its mean over the catalog.

    ``frequencies`` (vocabulary,) are the training pairs of the items that the column ``item``
    numbers; the catalog is the items with any.
    """
    logarithms = np.log(np.maximum(frequencies, 1))
    centred = logarithms - logarithms[frequencies > 0].mean()
    return frame.assign(**{POPULARITY.name: centred[frame[item]].astype(np.float32)})
