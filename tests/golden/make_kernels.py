"""What each kernel takes, by compiler: ``python -m tests.golden.make_kernels`` writes it anew.

A file a compiler, ``kernels/<release>.json``; those of compilers that are not at hand stay as they
are, and ``make test-compilers`` brings all. It prints what has changed. All kernels take many
minutes; ``python -m tests.golden.make_kernels refine.cu`` compiles those of one file, and leaves
the rows of the others.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from merlin_poeem.search.gpu.kernels import every_kernel
from tests.search.gpu.nvrtc import Kernel, Resources, compile_every_kernel
from tests.search.gpu.nvrtc_library import UNPACKED, Compiler, compilers, own_compiler

FOLDER = Path(__file__).with_name("kernels")

Table = dict[Kernel, Resources]


def releases() -> list[str]:
    """Those that there is a table of."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read(release: str) -> tuple[str, Table]:
    """The wheel that the table is of, and the table."""
    table = json.loads((FOLDER / f"{release}.json").read_text())
    of_kernels = len(Kernel.__dataclass_fields__)
    rows = [list(row.items()) for row in table["kernels"]]
    return table["compiler"], {
        Kernel(**dict(row[:of_kernels])): Resources(**dict(row[of_kernels:])) for row in rows
    }


def write(compiler: Compiler, table: Table) -> None:
    """One row a line, what is zero left out."""
    rows = [
        json.dumps(asdict(kernel) | {name: n for name, n in asdict(of).items() if n})
        for kernel, of in table.items()
    ]
    head = f'{{"compiler": {json.dumps(compiler.wheel)}, "kernels": [\n'
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{compiler.release}.json").write_text(head + ",\n".join(rows) + "\n]}\n")


def changes(before: Table, after: Table) -> list[str]:
    """What is new, gone, or takes something else than before: a line a kernel."""
    lines = [f"- {kernel}" for kernel in before if kernel not in after]
    for kernel, now in after.items():
        then = before.get(kernel)
        if then is None:
            lines.append(f"+ {kernel}: {_told(now)}")
        elif then != now:
            lines.append(f"  {kernel}: {_told(then)} -> {_told(now)}")
    return lines


def summary(release: str, table: Table) -> list[str]:
    """The most registers in each file, and every spill."""
    most: Counter[tuple[str, int]] = Counter()
    for kernel, of in table.items():
        key = kernel.file, kernel.architecture
        most[key] = max(most[key], of.registers)
    files = sorted({kernel.file for kernel in table})
    architectures = sorted({kernel.architecture for kernel in table})
    lines = [f"{release}: most registers, {' '.join(f'sm_{each}' for each in architectures)}"]
    lines += [
        f"  {file:12}" + "".join(f"{most[file, each]:6}" for each in architectures)
        for file in files
    ]
    spilled = {kernel: of for kernel, of in table.items() if of.spilled_bytes}
    lines.append(f"  spills: {len(spilled) or 'none'}")
    lines += [f"    {kernel}: {_told(of)}" for kernel, of in spilled.items()]
    return lines


def _told(of: Resources) -> str:
    told = f"{of.registers} registers, {of.shared_bytes} bytes shared"
    if of.spilled_bytes:
        told += f", SPILLS {of.spill_store_bytes} + {of.spill_load_bytes}"
        told += f", stack {of.stack_bytes}"
    if of.blocks > 1:
        told += f", {of.blocks} blocks"
    return told


def merged(before: Table, files: Sequence[str], compiled: Table) -> Table:
    """``before`` with the rows of ``files`` as ``compiled``, in the order of ``every_kernel``."""
    rows = {kernel: of for kernel, of in before.items() if kernel.file not in files} | compiled
    place = {kernel: i for i, kernel in enumerate(every_kernel())}
    order = sorted(rows, key=lambda kernel: (kernel.architecture, place[kernel.file, kernel.name]))
    return {kernel: rows[kernel] for kernel in order}


def main(files: Sequence[str]) -> None:
    """Compile with every compiler that is at hand: all kernels, or those of ``files``."""
    if unknown := set(files) - {file for file, _ in every_kernel()}:
        raise SystemExit(f"expected files of kernels, got {sorted(unknown)}")
    for release, compiler in compilers().items():
        table, warnings = compile_every_kernel(compiler, files=files or None)
        wheel, before = read(release) if release in releases() else ("", {})
        if files:
            if wheel != compiler.wheel:
                raise SystemExit(f"{release}: expected a table of {compiler.wheel}, got {wheel!r}")
            table = merged(before, files, table)
        write(compiler, table)
        print("\n".join([*summary(release, table), *warnings]))
        if before:
            print("\n".join(["  changes:", *changes(before, table)]))
    if own := own_compiler():
        for release in set(releases()) - {*UNPACKED, own.release}:
            (FOLDER / f"{release}.json").unlink()
    if missing := set(UNPACKED) - compilers().keys():
        print(f"left as they were, not at hand: {sorted(missing)}; make test-compilers brings them")


if __name__ == "__main__":
    main(sys.argv[1:])
