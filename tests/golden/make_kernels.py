"""Write ``kernels.json`` anew, what each kernel takes: ``python -m tests.golden.make_kernels``."""

import json
from dataclasses import asdict
from pathlib import Path

from tests.search.gpu.nvrtc import Kernel, Resources, compile_every_kernel, compiler

TABLE = Path(__file__).with_name("kernels.json")


def read() -> tuple[str, dict[Kernel, Resources]]:
    """The compiler of the table, and the table."""
    table = json.loads(TABLE.read_text())
    of_kernels = len(Kernel.__dataclass_fields__)
    rows = [list(row.items()) for row in table["kernels"]]
    return table["compiler"], {
        Kernel(**dict(row[:of_kernels])): Resources(**dict(row[of_kernels:])) for row in rows
    }


def write(resources: dict[Kernel, Resources]) -> None:
    """One row a line."""
    rows = [json.dumps(asdict(kernel) | asdict(of)) for kernel, of in resources.items()]
    head = f'{{"compiler": {json.dumps(compiler())}, "kernels": [\n'
    TABLE.write_text(head + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    compiled, warnings = compile_every_kernel()
    write(compiled)
    print("\n".join([*warnings, f"{len(compiled)} kernels: {TABLE}"]))
