"""Ali-CCP: the publisher's raw files to parquet, and every other form that its rows come in.

    from merlin_poeem.datasets import aliccp

    print(aliccp.to_parquet("raw", "ali-ccp"))

Needs nothing beside the package: no extra, no TensorFlow, no Merlin. What stays in memory are the
keys of the common features, then the items. All rows come as tables of :data:`SCHEMA`, with the
columns as Merlin names them.
"""

from merlin_poeem.datasets.aliccp.fields import SCHEMA
from merlin_poeem.datasets.aliccp.parquet import read_parquet, write_parquet
from merlin_poeem.datasets.aliccp.raw import read_raw
from merlin_poeem.datasets.aliccp.report import MalformedLine, Report
from merlin_poeem.datasets.aliccp.rows import read, to_parquet
from merlin_poeem.datasets.aliccp.samples import read_samples

__all__ = [
    "SCHEMA",
    "MalformedLine",
    "Report",
    "read",
    "read_parquet",
    "read_raw",
    "read_samples",
    "to_parquet",
    "write_parquet",
]
