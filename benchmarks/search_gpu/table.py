"""Rows as text: a line each while they are measured, a Markdown table for the documentation."""

from __future__ import annotations

from benchmarks.search_gpu.rows import Row

COLUMNS = (
    ("items", lambda r: f"{r['n_items']:,}"),
    ("dim", lambda r: str(r["dim"])),
    ("bytes", lambda r: str(r["code_bytes"])),
    ("lists/probes", lambda r: f"{r['n_lists']}/{r['n_probes']}"),
    ("batch", lambda r: str(r["batch"])),
    ("k", lambda r: str(r["k"])),
    ("backend", lambda r: r["backend"]),
    ("queries/s", lambda r: _number(r["queries_per_second"], ",.0f")),
    ("µs", lambda r: _number(r["latency_us"], ",.1f")),
    ("recall", lambda r: _number(r["recall"], ".4f")),
    ("× our time", lambda r: _number(r["ratio_to_ours"], ".2f")),
    ("of limit", lambda r: _number(r["limit_share"], ".0%")),
    ("path", lambda r: r["path"] or "–"),
)


def line(row: Row) -> str:
    """A row of the table, or what was wrong."""
    text = "  ".join(f"{name} {value(row)}" for name, value in COLUMNS)
    if row["error"]:
        return f"{text}  NOT MEASURED: {row['error']}"
    if row["seconds"] is None:
        return f"{text}  (emulated, not a measurement)"
    return text


def markdown(rows: list[Row]) -> str:
    """The measured ones as a table for the documentation, under what they were measured on."""
    rows = [row for row in rows if row["error"] is None]
    lines = []
    for machine in dict.fromkeys(
        (r["device"], r["driver"], r["cuda"], r["date"][:10]) for r in rows
    ):
        device, driver, cuda, date = machine
        lines.append(f"{device}, driver {driver}, CUDA {cuda}, {date}")
    versions = dict.fromkeys(f"{row['backend']} {row['peer_version']}" for row in rows)
    lines += ["", "Versions: " + ", ".join(versions) + ".", ""]
    lines.append("| " + " | ".join(name for name, _ in COLUMNS) + " |")
    lines.append("|" + " --- |" * len(COLUMNS))
    lines += ["| " + " | ".join(value(row) for _, value in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
