"""Step: what others take for the same, where they are installed: ``benchmarks.search_gpu``."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from benchmarks.card_check.checks import Checks
from benchmarks.card_check.programs import Program, python

SETTINGS = {
    "4.3M items": "--n-items 4300000 --n-lists 4096 --n-probes 8 64 --batches 1 1024 16384",
    "570,000 items": "--n-items 570000 --n-lists 1024 --n-probes 8 --batches 32 1024 16384",
}
COMMON = "--dims 64 --code-bytes 16 --ks 100 --on-device"
EMULATED = {"1,500 items": "--emulate --on-device --n-probes 4 --batches 1"}
KEPT = (
    *("backend", "peer", "peer_version", "kind", "n_items", "dim", "code_bytes", "pq_bits"),
    *("n_lists", "n_probes", "batch", "k", "path"),
    *("seconds", "recall", "agreement", "ratio_to_ours", "limit_share", "frame_overhead"),
    *("error", "note"),
)


def run(checks: Checks) -> None:
    """A line for each catalog."""
    settings = EMULATED if checks.emulate else SETTINGS
    for number, (name, arguments) in enumerate(settings.items()):
        share = checks.seconds_left / (len(settings) - number)
        checks.run(name, partial(_measure, checks, name, arguments, share), limit=900)


def _measure(checks: Checks, name: str, arguments: str, seconds: float) -> dict[str, Any]:
    output = checks.logs / f"peers_{_number_of(name)}.txt"
    rows = output.with_suffix(".json")
    rows.unlink(missing_ok=True)  # of an earlier run
    # Indexes are made on the device; the folder holds what cuVS is to read, for a moment.
    command = python("-m", "benchmarks.search_gpu", *arguments.split())
    command += [] if checks.emulate else COMMON.split()
    command += ["--minutes", str(seconds / 60), "--results", str(rows)]
    command += ["--folder", str(output.with_suffix(""))]
    program = Program(command, output)
    code = program.wait(seconds)
    text = program.text()
    missing = [line for line in text.splitlines() if line.startswith("missing:")]
    kept: dict[str, Any] = {"missing": sorted(set(missing)), "rows": []}
    if rows.exists():
        measured = json.loads(rows.read_text())["rows"]
        kept["rows"] = [{field: row[field] for field in KEPT} for row in measured]
    wrong = [row["error"] for row in kept["rows"] if row["error"]]
    if code not in (0, None) or wrong or not kept["rows"]:
        error = "; ".join(wrong) or f"exit status {code}: {text[-1500:]}"
        return kept | {"status": "failed" if code is not None else "timed out", "error": error}
    return kept | {"status": "measured"}


def _number_of(name: str) -> str:
    """A part of a file's name."""
    return name.split()[0].replace(",", "").replace(".", "_")
