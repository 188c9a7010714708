"""Latency and rate of a served index: ``python -m benchmarks.serving [--quick]``.

On a real Triton server, beside a model for its Python backend that one writes by hand with raw
Faiss (the same lists, codes and ``n_probes``), and beside ``search_frame`` without a server. Prints
tables, and writes them, a picture and all rows into ``results/serving/``.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.quality.trial import write_json
from benchmarks.serving.contenders import Contender, Served, in_process
from benchmarks.serving.material import RECALL_QUERIES, Material, made_up
from benchmarks.serving.measure import Effort, measure, shares
from benchmarks.serving.report import plot, tables
from benchmarks.serving.repository import BY_HAND, OURS, write_repository
from workflows.comparison import versions
from workflows.serving.triton_server import ENVIRONMENT, triton_server

RAW = "raw Faiss, by hand"
VECTORS = "merlin_poeem, vectors in"
IN_PROCESS = "search_frame, no server"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    options = _options(arguments)
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        material = made_up(
            n_items=options.n_items,
            dim=options.dim,
            code_bytes=options.bytes,
            n_lists=options.n_lists,
            n_probes=options.n_probes,
            n_queries=max(4096, *options.batches),
            k=options.k,
            catalogs=options.results / "catalogs",
            folder=Path(folder),
        )
        print(f"{material.index}, k {options.k}", flush=True)
        rows, times = run(material, Path(folder), options)
    head = (
        f"{options.n_items:,} items of {options.dim} dimensions at {options.bytes} bytes, "
        f"{options.n_lists} lists, n_probes {options.n_probes}, k {options.k}, "
        f"{options.threads} threads of Faiss, {options.clients} clients\n"
    )
    text = tables(head, rows, times)
    print(text)
    path = options.results / "serving" / f"{options.n_items}x{options.dim}"
    plot(head.strip(), rows, times, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(text)
    facts = {"rows": rows, "microseconds": times, "options": head, "versions": versions()}
    write_json(path.with_suffix(".json"), facts)
    print(f"{path}.json, .md and .png, in {time.perf_counter() - started:.0f} s")


def run(
    material: Material, folder: Path, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """A row a contender and batch; by model, where the time of a request of one row goes."""
    effort = Effort(options.rounds, options.requests, options.seconds)
    repository = write_repository(
        material, folder / "repository", max(RECALL_QUERIES, *options.batches)
    )
    variables = {"OMP_NUM_THREADS": str(options.threads)}
    with ExitStack() as stack:
        server = stack.enter_context(triton_server(repository, variables=variables))
        served = {
            name: Served(
                name,
                server.grpc,
                model,
                len(material.queries),
                lambda rows: {"query_vector": material.queries[rows]},
                options.clients,
            )
            for name, model in ((RAW, BY_HAND), (VECTORS, OURS))
        }
        frames = in_process(
            IN_PROCESS,
            ENVIRONMENT / "bin" / "python",
            material.index_path,
            material.queries_path,
            options.k,
            options.n_probes,
            options.threads,
        )
        contenders: list[Contender] = [*served.values(), stack.enter_context(frames)]
        recalls = {
            name: material.recall(each.item_ids(slice(0, RECALL_QUERIES)))
            for name, each in served.items()
        }
        recalls[IN_PROCESS] = recalls[VECTORS]
        rows = []
        for batch in options.batches:
            for row in measure(contenders, RAW, batch, effort):
                rows.append({**row, "recall": recalls[row["contender"]]})
                print(row, flush=True)
        times = {
            name: shares(server, each.model, each, options.requests)
            for name, each in served.items()
        }
    return rows, times


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n-items", type=int)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=16, help="of an item's codes")
    parser.add_argument("--n-lists", type=int)
    parser.add_argument("--n-probes", type=int, default=16)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 1024])
    parser.add_argument("--threads", type=int, default=2, help="of Faiss, in each model")
    parser.add_argument("--clients", type=int, default=4, help="that ask without a pause")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="a small catalog, few requests")
    options = parser.parse_args(arguments)
    usual = (20_000, 128, 3, 50, 0.5) if options.quick else (1_000_000, 1024, 9, 500, 3.0)
    names = ("n_items", "n_lists", "rounds", "requests", "seconds")
    for name, value in zip(names, usual, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
