"""OpenMP's threads after a fork: they are gone, and the thread that forked must not wait for them.

It alone lives on in the child, and keeps to itself there. Threads that the child starts get OpenMP
threads of their own, as in any process.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType

_before_the_fork = threading.local()


def n_threads(faiss: ModuleType) -> int:
    """As many threads as Faiss may use here, or might where this thread has forked."""
    n_before: int | None = getattr(_before_the_fork, "n_threads", None)
    return int(faiss.omp_get_max_threads()) if n_before is None else n_before


def keep_to_one_thread() -> None:
    """In the child: the setting is the calling thread's own, and this is the one that forked."""
    faiss = sys.modules.get("faiss")
    if faiss is None:  # not used yet: its threads will be the child's
        return
    _before_the_fork.n_threads = n_threads(faiss)
    faiss.omp_set_num_threads(1)
