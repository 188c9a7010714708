"""What a run found, in a page of text; from its lines alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.card_check.lines import Line
from benchmarks.card_check.targets import targets

GOOD = ("passed", "measured", "skipped", "not run")
ERROR_CHARACTERS = 300
TOP_KERNELS = 4


def summarize(lines: list[Line]) -> str:
    """Steps, what is wrong, times, targets."""
    parts = [_head(lines), _steps(lines), _wrong(lines), _times(lines), _more(lines)]
    parts += [_peers(lines), _targets(lines)]
    return "\n\n".join(part for part in parts if part)


def went_wrong(lines: list[Line]) -> bool:
    """Whether a check failed, died or hung, or a step did."""
    return any(True for _ in _wrong_lines(lines)) or bool(_cut_off(lines))


def _head(lines: list[Line]) -> str:
    known = {line["name"]: line for line in _ends(lines, "card")}
    card = known.get("card", {}).get("card")
    name = card["name"] if card else "card unknown"
    text = f"CARD CHECK {lines[0]['run']}: {name}"
    if lines[0].get("emulated"):
        return text + ": EMULATED, nothing was measured"
    facts = {**known.get("card", {}), **known.get("versions", {}), **known.get("copy", {})}
    shown = ("driver", "cuda_runtime", "nvrtc", "python", "versions", "bytes_per_second")
    return "\n".join([text, *(f"  {key}: {facts[key]}" for key in shown if key in facts)])


def _steps(lines: list[Line]) -> str:
    rows = ["STEPS"]
    for name in _step_names(lines):
        counts = Counter(line["status"].split(" (")[0] for line in _ends(lines, name))
        said = ", ".join(f"{n} {status}" for status, n in counts.items()) or "no check ended"
        rows.append(f"  {name:<12} {_step_status(lines, name):<28} {said}")
    return "\n".join(rows)


def _step_names(lines: list[Line]) -> list[str]:
    """Those that were planned, and those within them."""
    planned = lines[0].get("steps", [])
    others = [line["step"] for line in lines if line["step"] != "run"]
    return list(dict.fromkeys([*planned, *others]))


def _step_status(lines: list[Line], name: str) -> str:
    own = [line for line in lines if line["step"] == name]
    ended = [line for line in own if line["event"] == "step"]
    if ended:
        return str(ended[-1]["status"])
    if name not in lines[0].get("steps", []):
        return "within a step"
    return "cut off" if own else "not run"


def _cut_off(lines: list[Line]) -> list[str]:
    return [name for name in _step_names(lines) if _step_status(lines, name) == "cut off"]


def _wrong_lines(lines: list[Line]) -> Iterator[Line]:
    good = {"end": GOOD, "step": ("done", "not run")}
    for line in lines:
        if line["event"] in good and line["status"] not in good[line["event"]]:
            yield line


def _wrong(lines: list[Line]) -> str:
    rows = []
    for line in _wrong_lines(lines):
        what = f"{line['step']}: {line['name']}" if "name" in line else f"{line['step']} (step)"
        error = " ".join((line.get("error") or "").split())
        rows.append(f"  {what}: {line['status']}: {error[-ERROR_CHARACTERS:]}")
    for name in _cut_off(lines):
        began = [line["name"] for line in lines if _is(line, name, "begin")]
        ended = {line["name"] for line in _ends(lines, name)}
        open_checks = [check for check in began if check not in ended]
        rows.append(f"  {name}: cut off during {', '.join(open_checks) or 'its start'}")
    skipped = Counter(
        f"{line['step']}: {line['error']}"
        for line in lines
        if line["event"] == "end" and line["status"] == "skipped"
    )
    rows += [f"  skipped {n}: {reason}" for reason, n in skipped.items()]
    return "\n".join(["WRONG, CUT OFF OR SKIPPED", *(rows or ["  nothing"])])


def _times(lines: list[Line]) -> str:
    rows = [line for line in _ends(lines, "timings") if "recall" in line]
    if not rows:
        return ""
    form = "{:>9} {:>6} {:>4} {:>5} {:>6} {:<13} {:>10} {:>9} {:>9} {:>8} {:>7} {:>6}  {}"
    head = ("items", "batch", "prb", "k", "refine", "way", "µs", "graph µs", "host µs", "of limit")
    text = ["TIMES", "  " + form.format(*head, "recall", "agree", "kernels, µs")]
    for row in rows:
        text.append(
            "  "
            + form.format(
                f"{row['n_items']:,}",
                row["batch"],
                row["n_probes"],
                row["k"],
                row.get("refine", 0),
                f"{row['way']}: {row['path']}",
                _micro(row.get("seconds")),
                _micro(row.get("graph_seconds")),
                _micro(row.get("host_seconds")),
                _number(row.get("limit_share"), ".0%"),
                _number(row["recall"], ".4f"),
                _number(row["agreement"], ".3f"),
                _kernels(row.get("kernels") or {}),
            )
        )
    return "\n".join(text)


def _kernels(kernels: dict[str, Any]) -> str:
    """The slowest of them."""
    known = {name: value for name, value in kernels.items() if value is not None}
    slowest = sorted(known, key=lambda name: -known[name])[: TOP_KERNELS + 1]
    return ", ".join(f"{name} {_micro(known[name])}" for name in slowest)


def _more(lines: list[Line]) -> str:
    """The scan's start, chunks, the profiler."""
    rows = []
    for line in _ends(lines, "timings"):
        if "a_seconds" in line:
            a, b = line["a_seconds"] * 1e6, line["b_seconds_per_item"] * 1e12
            at = f"batch {line['batch']}, k {line['k']}"
            rows.append(f"  {line['name']}: scan = {a:.1f} µs + {b:.2f} ps an item, at {at}")
        if line.get("chunk_seconds"):
            each = line["chunk_seconds"].items()
            shown = ", ".join(f"{chunk}: {_micro(seconds)} µs" for chunk, seconds in each)
            rows.append(f"  {line['name']}: {shown}")
        if "index_seconds" in line:
            made, coded = line["vector_seconds"], line["index_seconds"]
            rows.append(f"  {line['name']}: {made:.1f} s and {coded:.1f} s")
    for line in _ends(lines, "profiler"):
        for launch in line.get("launches", []):
            rows.append("  ncu: " + ", ".join(f"{k} {v}" for k, v in launch.items()))
    return "\n".join(["MORE", *rows]) if rows else ""


def _peers(lines: list[Line]) -> str:
    rows = []
    for line in _ends(lines, "peers"):
        rows += [f"  {missing}" for missing in line.get("missing", [])]
        for row in line.get("rows", []):
            at = f"{row['n_items']:,} items, batch {row['batch']}, {row['n_probes']} probes"
            rows.append(
                f"  {at}, k {row['k']}: {row['backend']}: {_micro(row['seconds'])} µs, recall "
                f"{_number(row['recall'], '.4f')}, {_number(row['ratio_to_ours'], '.2f')} × ours"
            )
    return "\n".join(["PEERS", *dict.fromkeys(rows)]) if rows else ""


def _targets(lines: list[Line]) -> str:
    ours = [
        line
        for line in _ends(lines, "timings")
        if "recall" in line and line.get("seconds") is not None and not line.get("refine")
    ]
    peers = [row for line in _ends(lines, "peers") for row in line.get("rows", [])]
    rows = ["TARGETS"]
    for target in targets():
        figure = target.figure(ours, peers)
        if figure is None:
            rows.append(f"  not measured  {target.text} {target.unit}")
        else:
            said = "met" if target.is_met(figure) else "NOT MET"
            rows.append(f"  {said:<13} {target.text} {target.unit}: {figure:.1f} {target.unit}")
    return "\n".join(rows)


def _ends(lines: list[Line], step: str) -> list[Line]:
    return [line for line in lines if _is(line, step, "end")]


def _is(line: Line, step: str, event: str) -> bool:
    return bool(line["step"] == step and line["event"] == event)


def _micro(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds * 1e6, ",.1f")


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
