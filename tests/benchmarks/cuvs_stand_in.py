"""Modules in the place of cuVS and RMM: what of them the benchmark's peers use, on NumPy arrays."""

import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from merlin_poeem import Index
from merlin_poeem.search import reference


class SearchParams:
    """``cuvs.neighbors.ivf_pq.SearchParams`` of cuVS 26.10."""

    def __init__(
        self,
        *,
        n_probes: int = 20,
        lut_dtype: type = np.float32,
        internal_distance_dtype: type = np.float32,
        coarse_search_dtype: type = np.float32,
        max_internal_batch_size: int = 4096,
    ) -> None:
        self.n_probes = n_probes
        self.dtypes = lut_dtype, internal_distance_dtype, coarse_search_dtype


class OldSearchParams(SearchParams):
    """Of a release that knows no dtype for the coarse search."""

    def __init__(
        self,
        *,
        n_probes: int = 20,
        lut_dtype: type = np.float32,
        internal_distance_dtype: type = np.float32,
    ) -> None:
        super().__init__(n_probes=n_probes)


class IndexParams:
    """``cuvs.neighbors.ivf_pq.IndexParams``, those that are named."""

    def __init__(self, *, n_lists: int, metric: str, pq_bits: int, pq_dim: int) -> None:
        self.sizes = n_lists, metric, pq_bits, pq_dim


class Resources:
    """``cuvs.common.Resources``."""

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def sync(self) -> None:
        """Nothing to wait for."""


class BruteForce:
    """``cuvs.neighbors.brute_force``."""

    @staticmethod
    def build(dataset: Any, metric: str = "sqeuclidean", *, resources: Any) -> Any:
        assert metric == "inner_product"
        return dataset

    @staticmethod
    def search(
        index: Any, queries: Any, k: int, *, neighbors: Any, distances: Any, resources: Any
    ) -> None:
        assert queries.dtype == index.dtype
        scores = queries.astype(np.float32) @ index.astype(np.float32).T
        neighbors[...] = np.argsort(-scores, axis=1)[:, :k]
        distances[...] = np.take_along_axis(scores, neighbors, axis=1)


class CuvsStandIn:
    """cuVS' IVF-PQ, which answers as the definition does of ``index``.

    ``refuses`` are functions that raise, as cuVS does for what it does not like.
    """

    def __init__(self, index: Index, *refuses: str, search_params: type = SearchParams) -> None:
        self.index, self.refuses, self.calls = index, refuses, []
        self._search_params = search_params

    def modules(self) -> dict[str, ModuleType]:
        """What goes into ``sys.modules``."""
        modules = {name: ModuleType(name) for name in ("cuvs", "cuvs.common", "cuvs.neighbors")}
        ivf_pq: Any = SimpleNamespace(
            SearchParams=self._search_params,
            IndexParams=IndexParams,
            **{
                name: self._counted(name, getattr(self, name))
                for name in ("load", "build_precomputed", "extend", "build", "search")
            },
        )
        modules["cuvs"].__version__ = "26.10.0"
        modules["cuvs.common"].Resources = Resources
        modules["cuvs.neighbors"].ivf_pq = ivf_pq
        modules["cuvs.neighbors"].brute_force = BruteForce
        return modules

    def load(self, path: str, *, resources: Any) -> str:
        assert Path(path).stat().st_size > 0
        return "loaded"

    def build_precomputed(
        self,
        index_params: IndexParams,
        dim: int,
        pq_centers: Any,
        centers: Any,
        centers_rot: Any,
        rotation_matrix: Any,
        *,
        resources: Any,
    ) -> str:
        n_lists, _, pq_bits, pq_dim = index_params.sizes
        assert pq_centers.shape == (pq_dim, dim // pq_dim, 1 << pq_bits)
        assert centers.shape == (n_lists, -(-(dim + 1) // 8) * 8)
        assert centers_rot.shape == (n_lists, dim)
        assert rotation_matrix.shape == (dim, dim)
        for array in (pq_centers, centers, centers_rot, rotation_matrix):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
        return "precomputed"

    def extend(self, index: str, new_vectors: Any, new_indices: Any, *, resources: Any) -> str:
        assert index == "precomputed"
        assert new_indices.dtype == np.int64
        assert len(new_vectors) == len(new_indices) == self.index.n_items
        return "extended"

    def build(self, index_params: IndexParams, dataset: Any, *, resources: Any) -> str:
        return "built"

    def search(
        self,
        search_params: SearchParams,
        index: str,
        queries: Any,
        k: int,
        *,
        neighbors: Any,
        distances: Any,
        resources: Any,
    ) -> None:
        found = reference.search(self.index, queries, k=k, n_probes=search_params.n_probes)
        distances[...], neighbors[...] = found.padded(k, fill_id=-1)

    def _counted(self, name: str, function: Any) -> Any:
        signature = inspect.signature(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            signature.bind(*args, **kwargs)
            self.calls.append(name)
            if name in self.refuses:
                raise RuntimeError(f"{name} is refused\nand a trace")
            return function(*args, **kwargs)

        return call


def make_rmm() -> ModuleType:
    """``rmm``, with CUDA's own allocations at first."""
    rmm: Any = ModuleType("rmm")

    class CudaAsyncMemoryResource:
        pass

    def set_current(resource: Any) -> None:
        rmm.mr.current = resource
        rmm.mr.n_set += 1

    rmm.mr = SimpleNamespace(
        CudaAsyncMemoryResource=CudaAsyncMemoryResource,
        current=object(),
        n_set=0,
        get_current_device_resource=lambda: rmm.mr.current,
        set_current_device_resource=set_current,
    )
    return rmm
