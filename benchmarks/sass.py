"""The instructions that a scan spends on a lookup: ``python -m benchmarks.sass``; no GPU needed.

Compiles ``scan`` for sm_90, disassembles it with ``nvdisasm`` and follows the loop over groups, in
which a warp scores 32 items, on the shortest way that fetches codes and looks all of them up: no
filter, no mask, no item good enough to be kept. The share of the shared-memory peak is a model,
not a measurement: no stalls, and all units at once at their peaks (``PEAKS``), the slowest of
which alone counts.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.search.gpu import nvrtc

ARCHITECTURE = 90

# Warp-instructions a clock and multiprocessor; shared memory delivers 128 bytes: a word a lane.
# From the throughput table of NVIDIA's programming guide: 64 results a clock of integer, logic and
# multiply-add instructions each; four schedulers. IMAD and float go to the same pipe here.
PEAKS = {"issue": 4.0, "shared": 1.0, "ALU": 2.0, "FMA": 2.0}
PIPES = {
    "shared": "LDS STS ATOMS",
    "FMA": "IMAD FMUL FADD FFMA",
    "ALU": "PRMT LOP3 PLOP3 IADD3 VIADD VIMNMX ISETP FSETP SEL SHF LEA FMNMX MOV I2FP",
}
PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes.split()}
LOOKUP_OPCODES = ("PRMT", "IMAD", "LDS", "IADD3")

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*)(.*);")
LABEL = re.compile(r"^(\.L_x_\d+):")
TARGET = re.compile(r"\.L_x_\d+")
CODE_BYTE = re.compile(r"0x444[0-3], RZ")


class Instruction(NamedTuple):
    opcode: str
    operands: str
    successors: list[int]
    """Those that may come after it, by number."""


def main() -> None:
    """Print a row for each number of code bytes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("code_bytes", type=int, nargs="*", default=[8, 16, 32])
    args = parser.parse_args()
    disassembler = find_nvdisasm()
    if reason := nvrtc.missing():
        sys.exit(reason)
    if disassembler is None:
        sys.exit("needs nvdisasm: the CUDA toolkit's, or pip install nvidia-cuda-nvdisasm")
    for n in args.code_bytes:
        report(n, *group_loop(disassemble(disassembler, f"scan<{n}, true, true>"), n))


def find_nvdisasm() -> str | None:
    """On the path, or in a wheel beside NVRTC's."""
    wheels = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")
    return shutil.which("nvdisasm") or next(map(str, wheels), None)


def disassemble(disassembler: str, name: str) -> list[Instruction]:
    """The instructions of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(nvrtc.compile_kernels("scan.cu", [name], ARCHITECTURE).cubin)
        file.flush()
        command = [disassembler, "-c", file.name]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    found = []
    for line in lines.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif match := INSTRUCTION.match(line):
            found.append(match)
    return [_instruction(i, *match.groups(), labels) for i, match in enumerate(found)]


def _instruction(
    i: int, guard: str | None, opcode: str, operands: str, labels: dict[str, int]
) -> Instruction:
    # Calls, which the rare ways alone make, are taken for ends.
    ends = opcode in ("BRA", "EXIT", "RET", "CALL", "BRX")
    target = TARGET.search(operands) if opcode == "BRA" else None
    is_conditional = guard is not None or operands.lstrip().startswith(("P", "!P", "UP", ".DIV"))
    after = [i + 1] if is_conditional or not ends else []
    return Instruction(opcode, operands, [*after, *([labels[target[0]]] if target else [])])


def group_loop(code: list[Instruction], n: int) -> tuple[Counter[str], Counter[str]]:
    """Opcodes on the shortest way from one item's score to the next: all, and those of its lookups.

    The loop has two turns: the way is through the second.
    """
    extractions = [
        i
        for i, each in enumerate(code)
        if each.opcode == "PRMT" and CODE_BYTE.search(each.operands)
    ]
    if len(extractions) != 2 * n:
        sys.exit(
            f"scan<{n}, true, true>: expected {2 * n} code bytes taken from words, "
            f"got {len(extractions)}"
        )
    first = extractions[n]
    start, last = (_end_of_sum(code, extractions[end]) for end in (n - 1, -1))
    # The next item's codes come by the widest load that they fill; the last before the lookups.
    wide = f".{8 * min(16, 1 << n.bit_length() - 1)}." if n >= 8 else "."
    fetch = max(
        i for i, each in enumerate(code[:first]) if each.opcode == "LDG" and wide in each.operands
    )
    way = _shortest(code, start, fetch) + _shortest(code, fetch, first)
    lookups = [code[i].opcode for i in range(first, last)]
    return Counter(code[i].opcode for i in way) + Counter(lookups), Counter(lookups)


def _end_of_sum(code: list[Instruction], i: int) -> int:
    """The first instruction from ``i`` on that makes a float of the sum."""
    return next(j for j in range(i, len(code)) if code[j].opcode == "I2FP")


def _shortest(code: list[Instruction], start: int, end: int) -> list[int]:
    """From ``start`` up to ``end``, without it."""
    before, queue = {start: start}, [start]
    for i in queue:
        for following in code[i].successors:
            if following < len(code) and following not in before:
                before[following] = i
                queue.append(following)
    way, i = [], end
    while i != start:
        i = before[i]
        way.append(i)
    return way


def report(n: int, way: Counter[str], lookups: Counter[str]) -> None:
    per_lookup = ", ".join(f"{lookups[opcode] / n:.2f} {opcode}" for opcode in LOOKUP_OPCODES)
    overhead = way - Counter({opcode: lookups[opcode] for opcode in LOOKUP_OPCODES})
    pipes = Counter({"issue": way.total()})
    for opcode, count in way.items():
        pipes[PIPE_OF.get(opcode, "other")] += count
    clocks = {pipe: pipes[pipe] / peak for pipe, peak in PEAKS.items()}
    slowest = max(clocks, key=clocks.__getitem__)
    print(f"scan<{n}, true, true>, sm_{ARCHITECTURE}, a warp and group of 32 items:")
    print(f"  a lookup: {per_lookup}")
    print(f"  beside the lookups {overhead.total()}: {dict(overhead.most_common())}")
    print(f"  clocks: {', '.join(f'{pipe} {c:.1f}' for pipe, c in clocks.items())}")
    print(f"  {n / clocks[slowest]:.0%} of the shared-memory peak, bound by {slowest}")


if __name__ == "__main__":
    main()
