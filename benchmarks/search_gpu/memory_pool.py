"""RMM's memory pool: without one RMM asks CUDA for every array anew, and waits for the card."""

from __future__ import annotations


def use_memory_pool() -> None:
    """Let RMM take device memory from a pool; nothing where RMM is not installed.

    cuVS takes its working memory from RMM. Once cuDF is imported CuPy takes all its arrays there.
    """
    try:
        import rmm
    except ImportError:
        return
    resource = rmm.mr.get_current_device_resource()
    if not isinstance(resource, rmm.mr.CudaAsyncMemoryResource):
        rmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())
