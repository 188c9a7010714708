"""Step: what limits the kernels, by NVIDIA's Nsight Compute, where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import partial
from typing import Any

from benchmarks.card_check.checks import Checks, Skipped
from benchmarks.card_check.programs import Program, installed, python

KERNELS = ("scan", "choose_lists", "find_candidates", "rescore", "multiply_table")
# Of each launch; the whole report is in the folder of logs.
METRICS = (
    "Duration",
    "Memory Throughput",
    "DRAM Throughput",
    "L1/TEX Cache Throughput",
    "L2 Cache Throughput",
    "Compute (SM) Throughput",
    "Achieved Occupancy",
    "Theoretical Occupancy",
    "Registers Per Thread",
    "Executed Ipc Active",
    "L1/TEX Hit Rate",
    "L2 Hit Rate",
    "Eligible Warps Per Scheduler",
)
MOST_LAUNCHES = 10


def run(checks: Checks) -> None:
    """One profiled program, a line."""
    checks.run("ncu", partial(_profile, checks), limit=600)


def _profile(checks: Checks) -> dict[str, Any]:
    if checks.emulate:
        raise Skipped("needs a card")
    # The clocks stay as they are: others share the machine.
    command = [installed("ncu"), "--clock-control", "none", "--set", "full", "--csv"]
    command += ["--page", "details", "--kernel-name", f"regex:^({'|'.join(KERNELS)})$"]
    command += ["--launch-count", str(MOST_LAUNCHES)]
    command += python("-m", "benchmarks.card_check.profiled")
    program = Program(command, checks.logs / "ncu.txt")
    code = program.wait(checks.seconds_left)
    text = program.text()
    launches = read_launches(text.splitlines())
    if not launches:
        status = "timed out" if code is None else "failed"
        return {"status": status, "error": f"exit status {code}: {text[-1500:]}"}
    return {"status": "measured", "launches": launches}


def read_launches(lines: Iterable[str]) -> list[dict[str, str]]:
    """The metrics of each launch, from ncu's CSV among other output."""
    rows = list(csv.reader(line for line in lines if line.startswith('"')))
    header = next((row for row in rows if "Metric Name" in row), None)
    if header is None:
        return []
    launches: dict[str, dict[str, str]] = {}
    for row in rows:
        if row == header:
            continue
        # Rows of metrics end before the columns that are of rules.
        fields = dict(zip(header, row, strict=False))
        if "Metric Name" not in fields:
            continue
        launch = launches.setdefault(fields["ID"], {"kernel": fields["Kernel Name"]})
        if fields["Metric Name"] in METRICS:
            value = f"{fields['Metric Value']} {fields['Metric Unit']}".strip()
            launch[fields["Metric Name"]] = value
    return list(launches.values())
