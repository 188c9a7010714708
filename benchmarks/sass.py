"""The instructions that the kernels spend: ``python -m benchmarks.sass``; no GPU needed.

Compiles kernels for sm_90, disassembles them with ``nvdisasm`` and follows their loops on the
shortest way: of ``scan`` the loop over groups, in which a warp scores 32 items (no filter, no mask,
no item good enough to be kept); of the bulk path the products of 16 queries with 32 items, the
decoding of four code bytes of 32 items, and the exact scores of 32 noted items. The share of the
shared-memory peak is a model, not a measurement: no stalls, and all units at once at their peaks
(``PEAKS``), the slowest of which alone counts. ``bulk_plan.py`` has its constants from here.
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

from merlin_poeem.search.gpu.bulk_plan import HELD_STEPS
from merlin_poeem.search.gpu.kernels import scan_name, tiles_name
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
        code = disassemble(disassembler, "scan.cu", scan_name(n, spread=True, plain=True))
        report(n, *group_loop(code, n))
    for steps in HELD_STEPS:
        report_tiles(steps, disassemble(disassembler, "tiles.cu", tiles_name(steps, plain=True)))
    for n in args.code_bytes:
        report_rescore(n, disassemble(disassembler, "rescore.cu", f"rescore<{n}>"))


def find_nvdisasm() -> str | None:
    """On the path, or in a wheel beside NVRTC's."""
    wheels = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")
    return shutil.which("nvdisasm") or next(map(str, wheels), None)


def disassemble(disassembler: str, file: str, name: str) -> list[Instruction]:
    """The instructions of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(nvrtc.compile_kernels(file, [name], ARCHITECTURE).cubin)
        cubin.flush()
        command = [disassembler, "-c", cubin.name]
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
            f"{scan_name(n, True, True)}: expected {2 * n} code bytes taken from words, "
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
    print(f"{scan_name(n, True, True)}, sm_{ARCHITECTURE}, a warp and group of 32 items:")
    print(f"  a lookup: {per_lookup}")
    print(f"  beside the lookups {overhead.total()}: {dict(overhead.most_common())}")
    print(f"  clocks: {', '.join(f'{pipe} {c:.1f}' for pipe, c in clocks.items())}")
    print(f"  {n / clocks[slowest]:.0%} of the shared-memory peak, bound by {slowest}")


def report_tiles(steps: int, code: list[Instruction]) -> None:
    """Of ``find_candidates`` whose items stay in registers for ``steps`` steps of 16 dimensions."""
    products = _all_of(code, "HMMA")
    without, noting = cycle(code, products), cycle(code, [*products, *_all_of(code, "ATOMG")])
    print(f"find_candidates<{steps}, true>, sm_{ARCHITECTURE}:")
    print(
        f"  products of 16 queries, {16 * steps} dimensions, and 32 items: {without.total()}, "
        f"{noting.total()} where one is noted; a query: {without.total() / 16:.1f} to "
        f"{noting.total() / 16:.1f}"
    )
    # The queries of the next tile: from the wait for those of this one to its products.
    waits, copied = _all_of(code, "LDGDEPBAR")[-1], _all_of(code, "LDGSTS")
    first_copy = next(i for i in copied if i > waits)
    loading = [*_shortest(code, waits, first_copy), *_shortest(code, first_copy, products[0])]
    print(
        f"  taking 64 queries, by each of 8 warps: {len(loading)}; a query and 32 items: "
        f"{len(loading) * 8 / (64 * 4):.1f}"
    )
    for bits, dims in ((64, 4), (128, 8)):
        copies = [i for i in _all_of(code, "LDG") if f".{bits}.CONSTANT" in code[i].operands]
        # Codewords of one such load, or of several: the shorter way is that of one.
        loads = [i for i in _all_of(code, "LDG") if code[i].operands.startswith(".E.CONSTANT")]
        ways = []
        for first in range(0, len(copies), 4):
            word = max(i for i in loads if i < copies[first])
            ways.append(cycle(code, [word, *copies[first : first + 4]]))
        way = min(ways, key=Counter.total)
        print(f"  decoding a code byte of {dims} dimensions, 32 items: {way.total() / 4:.1f}")


def report_rescore(n: int, code: list[Instruction]) -> None:
    """Of ``rescore``: 32 noted items of ``n`` code bytes."""
    extractions = [i for i in _all_of(code, "PRMT") if CODE_BYTE.search(code[i].operands)]
    # Those of the noted items come after the shuffles that hand the items out.
    shuffles = [i for i in _all_of(code, "SHFL") if code[i].operands.startswith(".IDX")]
    first = next(i for i in extractions if sum(i - 400 < s < i for s in shuffles) >= 9)
    start = extractions.index(first)
    handing_out = [s for s in shuffles if s < first][-9:]
    way = cycle(code, [*handing_out, *extractions[start : start + n]])
    print(f"rescore<{n}>, sm_{ARCHITECTURE}: 32 noted items: {way.total()}")


def cycle(code: list[Instruction], through: list[int]) -> Counter[str]:
    """Opcodes on the shortest way through all of these, in their order, and back to the first."""
    legs = zip(through, [*through[1:], through[0]], strict=True)
    return Counter(code[i].opcode for leg in legs for i in _shortest(code, *leg))


def _all_of(code: list[Instruction], opcode: str) -> list[int]:
    return [i for i, each in enumerate(code) if each.opcode == opcode]


if __name__ == "__main__":
    main()
