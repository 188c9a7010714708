"""Exact search by a matrix product and a top-k: PyTorch's and CuPy's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.search_gpu.backend import SMALL_BATCH, Backend, read_rows
from benchmarks.search_gpu.material import Material

# All scores of a batch at once are up to hundreds of GB: exact peers go by so many bytes of them.
SCORE_BYTES = 2 << 30


def open_torch(material: Material) -> list[Backend]:
    """``matmul`` and ``topk``, in float32 (no TF32: PyTorch's default) and in bfloat16."""
    material.cupy()
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    return [
        Backend(
            f"torch exact ({name})",
            torch.__version__,
            _torch_search(torch, material, dtype),
            read_rows(material.catalog),
            peer="torch",
            is_exact=True,
        )
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]


def open_cupy(material: Material) -> list[Backend]:
    """:func:`exact_top_k`, where PyTorch does not do the same faster."""
    xp = material.cupy()
    if _torch_with_gpu() is not None:
        raise RuntimeError("PyTorch, which is there, does the same faster")
    return [
        Backend(
            "cupy exact",
            xp.__version__,
            lambda queries, k, n_probes: exact_top_k(xp, material.vectors, queries, k),
            read_rows(material.catalog),
            peer="cupy",
            is_exact=True,
            max_batch=SMALL_BATCH,
        )
    ]


def exact_top_k(xp: ModuleType, vectors: Any, queries: Any, k: int) -> tuple[Any, Any]:
    """The ``k`` largest inner products: scores (n, k) float32, best first, and rows of ``vectors``.

    By parts of the items, in bounded memory. Arrays of CuPy go to PyTorch where there is one: of
    1,000 and more CuPy sorts all.
    """
    torch = _torch_with_gpu() if xp.__name__ == "cupy" else None
    if torch is not None:
        return _torch_top_k(torch, xp, vectors, queries, k)
    step = max(1, SCORE_BYTES // (4 * max(1, len(queries))))
    of_parts, rows_of_parts = [], []
    for start in range(0, len(vectors), step):
        scores = queries @ vectors[start : start + step].T
        width = min(k, scores.shape[1])
        best = xp.argpartition(-scores, width - 1, axis=1)[:, :width]
        of_parts.append(xp.take_along_axis(scores, best, axis=1))
        rows_of_parts.append(best + start)
    scores, rows = xp.concatenate(of_parts, axis=1), xp.concatenate(rows_of_parts, axis=1)
    order = xp.argsort(-scores, axis=1)[:, :k]
    return xp.take_along_axis(scores, order, axis=1), xp.take_along_axis(rows, order, axis=1)


def _torch_with_gpu() -> ModuleType | None:
    """PyTorch, where it is installed and has a GPU."""
    try:
        import torch
    except ImportError:
        return None
    module: ModuleType = torch
    return module if torch.cuda.is_available() else None


def _torch_top_k(
    torch: ModuleType, xp: ModuleType, vectors: Any, queries: Any, k: int
) -> tuple[Any, Any]:
    """:func:`exact_top_k` of CuPy arrays by ``torch.topk``, in float32, on the current stream."""
    step = max(1, SCORE_BYTES // (4 * max(1, len(queries))))
    with torch.cuda.stream(torch.cuda.ExternalStream(xp.cuda.get_current_stream().ptr)):
        of_items, of_queries = torch.from_dlpack(vectors), torch.from_dlpack(queries)
        scores, rows = [], []
        for start in range(0, len(of_items), step):
            of_part = of_queries @ of_items[start : start + step].T
            best = torch.topk(of_part, min(k, of_part.shape[1]))
            scores.append(best.values)
            rows.append(best.indices + start)
        best = torch.topk(torch.cat(scores, 1), min(k, len(of_items)))
        found = torch.gather(torch.cat(rows, 1), 1, best.indices)
        return xp.from_dlpack(best.values.contiguous()), xp.from_dlpack(found.contiguous())


def _torch_search(
    torch: ModuleType, material: Material, dtype: Any
) -> Callable[[Any, int, int], Any]:
    stream = torch.cuda.ExternalStream(material.stream)
    with torch.cuda.stream(stream):
        vectors = torch.from_dlpack(material.vectors).to(dtype)
    n_rows = max(1, SCORE_BYTES // (len(vectors) * vectors.element_size()))

    def search(queries: Any, k: int, n_probes: int) -> Any:
        with torch.cuda.stream(stream):
            chunks = torch.from_dlpack(queries).to(dtype).split(n_rows)
            best = [torch.topk(chunk @ vectors.T, k) for chunk in chunks]
            return (
                torch.cat([part.values for part in best]).float(),
                torch.cat([part.indices for part in best]),
            )

    return search
