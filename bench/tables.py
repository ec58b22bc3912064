"""The Markdown tables of a report, from one session."""

from itertools import groupby
from typing import Any

from contenders import OURS
from session import STAGES, Record, Session, milliseconds, significant

NOTHING = "–"


def head_tables(session: Session) -> list[str]:
    """One table for each head: times by stage, on a GPU host time, then error, memory and bandwidth."""
    lines = []
    columns = [f"{stage}, ms" for stage in STAGES] + ["host, ms"] * session.on_gpu
    columns += ["gradient error", "MiB", "bandwidth"]
    for shape in session.values("shape", table="head"):
        records = session.select(table="head", shape=shape)
        lines += [
            "",
            f"### {shape}: {records[0].logits:,} logits, {records[0].positives:,} positives",
            "",
            f"| contender | {' | '.join(columns)} |",
            f"|---|{'---|' * len(columns)}",
        ]
        present = {record.contender for record in records}
        for contender in [name for name in session.values("contender") if name in present]:
            own = session.select(table="head", shape=shape, contender=contender)
            times = [_time(session, table="head", shape=shape, stage=stage, contender=contender) for stage in STAGES]
            peak = session.peak(shape, contender)
            times += [_host(own)] * session.on_gpu
            cells = [*times, _errors(own), NOTHING if peak is None else significant(peak), _shares(own)]
            lines.append(f"| {contender} | {' | '.join(cells)} |")
        lines += _left_out(session, table="head", shape=shape)
    return lines


def sweep_table(session: Session, table: str) -> list[str]:
    """Contenders by shapes: medians and ratios; below an approximate contender, its error."""
    shapes = session.values("shape", table=table)
    if not shapes:
        return ["", "Not measured in this session."]
    lines = ["", f"| contender | {' | '.join(f'{shape}, ms' for shape in shapes)} |", f"|---|{'---|' * len(shapes)}"]
    for contender in session.values("contender", table=table):
        cells = [_time(session, table=table, shape=shape, contender=contender) for shape in shapes]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
        records = [session.find(table=table, shape=shape, contender=contender) for shape in shapes]
        if any(record and record.kind == "approximate" for record in records):
            errors = [f"{record.error:.1e}" if record else NOTHING for record in records]
            lines.append(f"| its gradient error | {' | '.join(errors)} |")
    return lines + _left_out(session, table=table)


def memory_table(session: Session) -> list[str]:
    """MiB beyond inputs and gradient: contenders by heads."""
    shapes = [shape for shape in session.values("shape") if session.peak(shape, OURS) is not None]
    heads = [shape for shape in shapes if session.select(shape=shape, table="memory") or session.on_gpu]
    heads = [shape for shape in heads if "=" not in shape]
    contenders = [
        name for name in session.values("contender") if any(session.peak(shape, name) is not None for shape in heads)
    ]
    if not heads:
        return ["", "Not measured in this session."]
    lines = ["", f"| head | {' | '.join(contenders)} |", f"|---|{'---|' * len(contenders)}"]
    for shape in heads:
        peaks = [session.peak(shape, name) for name in contenders]
        lines.append(f"| {shape} | {' | '.join(NOTHING if peak is None else significant(peak) for peak in peaks)} |")
    return lines + _left_out(session, table="memory")


def step_table(session: Session) -> list[str]:
    """Training steps: medians, ratios to the baseline, time in the ranking losses, and the peak memory."""
    lines = []
    for setting in session.values("setting", table="step"):
        lines += [
            "",
            f"### {setting}",
            "",
            "| step | median, ms | / baseline | in the ranking losses | peak, MiB |",
            "|---|---|---|---|---|",
        ]
        for record in session.select(table="step", setting=setting):
            baseline = session.find(table="step", setting=setting, contender=record.baseline)
            ratio = significant(record.median / baseline.median) if baseline else NOTHING
            share = NOTHING if record.loss_share is None else f"{100 * record.loss_share:.1f} %"
            peak = NOTHING if record.peak_mib is None else significant(record.peak_mib)
            name = record.contender + (" (baseline)" if record.contender == record.baseline else "")
            lines.append(f"| {name} | {milliseconds(record.median)} | {ratio} | {share} | {peak} |")
        for record in session.select(table="step", setting=setting):
            if record.assignment_share is not None:
                lines += ["", f"{record.contender}: {100 * record.assignment_share:.1f} % in the assignment."]
    prefix = "training step, "
    missing = {name: why for name, why in session.facts["not_measured"].items() if name.startswith(prefix)}
    for name, why in missing.items():
        lines += ["", f"{name.removeprefix(prefix)}: not measured, {why}."]
    return lines


def evidence_table(session: Session) -> list[str]:
    """Per kernel and target, the range over its variants (dtypes, steps, ways to ignore)."""
    entries = session.facts.get("static_evidence")
    if not entries:
        reason = session.facts["not_measured"].get("static evidence", "in this session")
        return ["", f"Not measured: {reason}."]
    columns = ("registers", "spilled", "stack", "shared", "instructions")
    lines = ["", f"| kernel | target | variants | {' | '.join(columns)} |", f"|---|---|---|{'---|' * len(columns)}"]

    def place(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["kernel"], entry["target"]

    order = {target: number for number, target in enumerate(dict.fromkeys(entry["target"] for entry in entries))}
    entries = sorted(entries, key=lambda entry: (entry["kernel"], order[entry["target"]]))
    for (kernel, target), group in groupby(entries, place):
        variants = list(group)
        ranges = [_range([variant[column] for variant in variants]) for column in columns]
        lines.append(f"| {kernel} | {target} | {len(variants)} | {' | '.join(ranges)} |")
    return lines


def _time(session: Session, **where: Any) -> str:
    """Median in ms and, in brackets, its ratio to the median of `OURS`."""
    record = session.find(**where)
    if record is None:
        refused = [case for case in session.facts["refused"] if all(case.get(key) == where[key] for key in where)]
        if refused:
            return f"refused: error {refused[0]['error']:.0e}"
        return "left out" if session.left_out(**where) else NOTHING
    ours = session.find(**{**where, "contender": OURS})
    ratio = f" ({_ratio(record.median / ours.median)})" if ours and record is not ours else ""
    return f"{milliseconds(record.median)}{ratio}{' once' if record.rounds == 1 else ''}"


def _ratio(value: float) -> str:
    return significant(value) if value >= 0.01 else "<0.01"


def _host(records: list[Record]) -> str:
    """Milliseconds until the last launch is queued, over the stages."""
    seconds = [record.host for record in records if record.host is not None]
    if not seconds:
        return NOTHING
    low, high = milliseconds(min(seconds)), milliseconds(max(seconds))
    return low if low == high else f"{low} to {high}"


def _errors(records: list[Record]) -> str:
    errors = [record.error for record in records if record.error is not None]
    return f"{max(errors):.1e}" if errors else NOTHING


def _shares(records: list[Record]) -> str:
    shares = [record.bandwidth_share for record in records if record.bandwidth_share is not None]
    if not shares:
        return NOTHING
    if max(shares) < 1e-3:
        return "<0.1 %"
    return _range([100 * share for share in shares], " %")


def _range(values: list[float], unit: str = "") -> str:
    low, high = (
        f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
        for value in (min(values), max(values))
    )
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _left_out(session: Session, **where: Any) -> list[str]:
    """One line for each contender and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in session.left_out(**where):
        label = case["stage"] if case["table"] == "head" else case["shape"]
        reasons.setdefault((case["contender"], case["reason"]), []).append(label)
    if not reasons:
        return []
    parts = [f"{contender} ({', '.join(labels)}): {reason}" for (contender, reason), labels in reasons.items()]
    return ["", f"Left out: {'; '.join(parts)}."]
