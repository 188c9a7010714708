"""What a served index tells Prometheus beside Triton's own figures of requests and latency."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from merlin_poeem.evaluate import items_scanned
from merlin_poeem.serving.retrieval import Answer, Retrieval

SAMPLED = 64
"""Of so many executions one is looked at closely: counting scanned items takes time."""

TOLD_EVERY = 0.5
"""Seconds. Telling the server a count takes as long as a small search, so that counts wait for the
first execution after that time."""

COUNTERS = {
    "poeem_requests_total": "Requests that were answered.",
    "poeem_refused_requests_total": "Requests that were wrong, or failed.",
    "poeem_rows_total": "Rows of answered requests.",
    "poeem_short_rows_total": "Rows with fewer candidates than they asked for.",
    "poeem_sampled_rows_total": f"Rows whose scanned items were counted (1 batch in {SAMPLED}).",
    "poeem_sampled_items_scanned_total": "Items scanned for those rows.",
}
GAUGES = {
    "poeem_index_items": "Items of the index.",
    "poeem_index_created_seconds": "When the version was exported, in seconds since 1970.",
}


class Metrics:
    """The metrics of one instance; the label ``process`` tells them from those of others.

    Triton deletes a metric for all who have one of the same labels.
    """

    def __init__(self, backend: Any, retrieval: Retrieval, labels: dict[str, str]) -> None:
        """``backend`` is ``triton_python_backend_utils``."""
        self._retrieval = retrieval
        self._n_executions = 0
        self._waiting: Counter[str] = Counter()
        self._told = -TOLD_EVERY
        family = backend.MetricFamily
        kinds = ((COUNTERS, family.COUNTER), (GAUGES, family.GAUGE))
        # The families have to live as long as the metrics do.
        self._families = {
            name: family(name=name, description=text, kind=kind)
            for of_kind, kind in kinds
            for name, text in of_kind.items()
        }
        labels = {**labels, "process": str(os.getpid())}
        self._metrics = {name: one.Metric(labels=labels) for name, one in self._families.items()}
        self._metrics["poeem_index_items"].set(retrieval.index.n_items)
        self._metrics["poeem_index_created_seconds"].set(retrieval.spec.created)

    def count(self, answers: Sequence[Answer | Exception]) -> None:
        """Add the answers of one execution."""
        answered = [answer for answer in answers if isinstance(answer, Answer)]
        self._waiting["poeem_requests_total"] += len(answered)
        self._waiting["poeem_refused_requests_total"] += len(answers) - len(answered)
        self._waiting["poeem_rows_total"] += sum(len(answer.wanted) for answer in answered)
        self._waiting["poeem_short_rows_total"] += sum(answer.n_short for answer in answered)
        if answered and self._n_executions % SAMPLED == 0:
            self._count_scanned(answered[0])
        self._n_executions += 1
        if time.monotonic() - self._told >= TOLD_EVERY:
            self._tell()

    def remove(self) -> None:
        """Take them back: this version is served no more.

        Left to the end of the process they would ask a server that does not answer any more, which
        is a segmentation fault.
        """
        self._metrics.clear()
        self._families.clear()

    def _count_scanned(self, answer: Answer) -> None:
        row, n_probes = slice(0, 1), int(answer.wanted[0, 1])
        scanned = items_scanned(self._retrieval.index, answer.queries[row], n_probes)
        self._waiting["poeem_sampled_rows_total"] += len(scanned)
        self._waiting["poeem_sampled_items_scanned_total"] += int(scanned.sum())

    def _tell(self) -> None:
        for name, number in self._waiting.items():
            if number:
                self._metrics[name].increment(number)
        self._waiting.clear()
        self._told = time.monotonic()
