"""Encoding and search over a Dask cluster, with the results of one process. Needs Dask.

Frames are ``dask.dataframe``'s, of pandas or (``dask_cudf``) cuDF partitions; any Dask scheduler
runs them. Workers read saved indexes by their path, so all must see it.
"""

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.distributed", "dask"):
    from merlin_poeem.distributed.encode import encode_ddf, fit_ddf, index_ddf
    from merlin_poeem.distributed.search import search_ddf
    from merlin_poeem.distributed.shards import Shard, load_shards, shard_index

__all__ = [
    "Shard",
    "encode_ddf",
    "fit_ddf",
    "index_ddf",
    "load_shards",
    "search_ddf",
    "shard_index",
]
