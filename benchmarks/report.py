"""Writes results as JSON, for programs, and as Markdown, for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.results import LOG_COST, Line, Notes, Results, Verdict, geometric_mean
from benchmarks.workloads import Row, Workload

_FORMAT: Final = 1
_NOTHING: Final = "-"


@dataclass(frozen=True)
class Report:
    """A run and all that is to be said about it."""

    results: Results
    environment: Mapping[str, str]
    left_out: Mapping[str, str]
    """Peer or workload -> why it did not take part."""
    rounds: Mapping[str, int]
    quick: bool
    complete: bool
    """False if the run was interrupted."""
    notes: Notes

    def as_json(self) -> dict[str, Any]:
        results = self.results
        return {
            "format": _FORMAT,
            "complete": self.complete,
            "quick": self.quick,
            "environment": dict(self.environment),
            "peers": {peer.name: peer.description for peer in results.peers},
            "left_out": dict(self.left_out),
            "rounds": dict(self.rounds),
            "rows": [self._row(workload, row) for workload, row in self._rows()],
            "geometric_means": {
                workload.name: {
                    peer: geometric_mean(results.ratios(workload, peer, "native"))
                    for peer in self._columns(workload)
                }
                for workload in results.compared()
            },
            "logs": [
                {
                    "workload": workload,
                    "peer": peer,
                    "lines": [sample.log_lines for sample in samples],
                    "bytes": [sample.log_bytes for sample in samples],
                }
                for (workload, peer), samples in results.samples.items()
                if samples[0].log_lines is not None
            ],
            "log_cost": self._log_cost(),
            "verdicts": [_verdict(verdict) for verdict in results.verdicts(self.notes)],
            "failures": [asdict(failure) for failure in results.failures],
        }

    def as_markdown(self) -> str:
        parts = [
            ["# Benchmark results", ""],
            self._preface(),
            self._environment(),
            *(self._workload(workload) for workload in self.results.workloads),
            self._log_cost_section(),
            *(_verdict_section(verdict) for verdict in self.results.verdicts(self.notes)),
            self._failures(),
        ]
        return "\n".join(line for part in parts for line in part).rstrip() + "\n"

    def _rows(self) -> list[tuple[Workload, Row]]:
        return [(workload, row) for workload in self.results.workloads for row in workload.rows]

    def _row(self, workload: Workload, row: Row) -> dict[str, Any]:
        columns = self._columns(workload)
        return {
            "workload": workload.name,
            "row": row.name,
            "title": row.title,
            "unit": row.unit,
            "better": "more" if row.is_rate else "less",
            "values": {peer: self.results.values(workload, row, peer) for peer in columns},
            "median": {peer: self.results.median(workload, row, peer) for peer in columns},
        }

    def _columns(self, workload: Workload) -> list[str]:
        """The peers that have values in a workload."""
        names = [peer.name for peer in self.results.peers]
        return [name for name in names if (workload.name, name) in self.results.samples]

    def _preface(self) -> Iterable[str]:
        if not self.complete:
            yield from ("**Interrupted: this is what had been measured by then.**", "")
        if self.quick:
            yield from ("**Quick run: shows that everything works, not how fast.**", "")
        if text := self.notes.get("general", {}).get("text"):
            yield from (text.strip(), "")
        for name, why in self.left_out.items():
            yield f"- {name} left out: {why}"
        if self.left_out:
            yield ""

    def _environment(self) -> Iterable[str]:
        rounds = ", ".join(f"{name} {count}" for name, count in self.rounds.items())
        facts = {**self.environment, "rounds": rounds}
        yield from _table(["", ""], ([key, value] for key, value in facts.items()))

    def _workload(self, workload: Workload) -> Iterable[str]:
        columns = self._columns(workload)
        yield from (f"## {workload.title}", "")
        if workload.compared:
            yield "Median; in parentheses the time it takes as a multiple of native's."
            yield ""
        body = [
            [row.title, row.unit, *(self._cell(workload, row, peer) for peer in columns)]
            for row in workload.rows
        ]
        if workload.compared and "native" in columns:
            means = [
                geometric_mean(self.results.ratios(workload, peer, "native")) for peer in columns
            ]
            body.append(
                ["**geometric mean**", "", *(f"({times(mean)})" for mean in means)],
            )
        yield from _table(["", "", *columns], body)

    def _cell(self, workload: Workload, row: Row, peer: str) -> str:
        value = self.results.median(workload, row, peer)
        ratio = self.results.ratio(workload, row, peer, "native")
        if value is None:
            return _NOTHING
        if not workload.compared or ratio is None or peer == "native":
            return number(value)
        return f"{number(value)} ({times(ratio)})"

    def _log_cost(self) -> list[dict[str, Any]]:
        """What a log adds to the time of each row, as a fraction of the time without one."""
        costs = []
        for base, variants in LOG_COST:
            for variant in variants:
                rows = {
                    row.name: ratio - 1
                    for workload, row in self._rows()
                    if workload.compared and workload.log_variants
                    for ratio in [self.results.ratio(workload, row, variant, base)]
                    if ratio is not None
                }
                mean = geometric_mean(cost + 1 for cost in rows.values())
                if mean is not None:
                    costs.append({"with": variant, "without": base, "rows": rows, "mean": mean - 1})
        return costs

    def _log_cost_section(self) -> Iterable[str]:
        costs = self._log_cost()
        if not costs:
            return
        described = {peer.name: peer.description for peer in self.results.peers}
        yield from ("## Cost of the access log", "")
        yield "What the log adds to a row's time: (with log - without) / without."
        yield ""
        for cost in costs:
            yield f"- {cost['with']}: {described[cost['with']]}; compared with {cost['without']}"
        yield ""
        titles = {row.name: row.title for _, row in self._rows()}
        names = [name for name in titles if any(name in cost["rows"] for cost in costs)]
        body = [
            [titles[name], *(percent(cost["rows"].get(name)) for cost in costs)] for name in names
        ]
        body.append(["**geometric mean**", *(percent(cost["mean"]) for cost in costs)])
        yield from _table(["", *(cost["with"] for cost in costs)], body)

    def _failures(self) -> Iterable[str]:
        if not self.results.failures:
            return
        yield from ("## Failures", "")
        for failure in self.results.failures:
            where = f"{failure.workload}, {failure.peer}, round {failure.round}"
            yield f"- {where}: {failure.message}"
        yield ""


def _verdict(verdict: Verdict) -> dict[str, Any]:
    goal = verdict.goal
    return {
        **asdict(goal),
        "reached": verdict.reached,
        "geometric_mean": verdict.mean,
        "geometric_means": verdict.means,
        "rows": [
            {
                "row": line.row.name,
                "times_as_fast": line.times,
                "short": goal.every_row and line.slower,
                "within_noise": line.noise,
                "note": line.note,
            }
            for line in verdict.lines
        ],
    }


def _verdict_section(verdict: Verdict) -> Iterable[str]:
    goal = verdict.goal
    yield from (f"## Verdict: {goal.ours} and {goal.theirs}", "")
    rows = " and faster in every row" if goal.every_row else ""
    yield (
        f"Goal: at least {goal.mean:g} times as fast as {goal.theirs} in the geometric mean{rows}. "
        f"**{'Reached' if verdict.reached else 'Not reached'}**: {times(verdict.mean)} over "
        f"{len(verdict.lines)} rows"
        + "".join(f"; {name} {times(mean)}" for name, mean in verdict.means.items())
        + "."
    )
    yield ""
    body = [
        [
            line.row.title,
            line.row.unit,
            number(line.ours),
            number(line.theirs),
            times(line.times),
            _mark(line, verdict),
            line.note,
        ]
        for line in verdict.lines
    ]
    header = ["", "", goal.ours, goal.theirs, "times as fast", "", "why"]
    yield from _table(header, body)


def _mark(line: Line, verdict: Verdict) -> str:
    if line.ours is None:
        return "**not measured**"
    if not line.slower:
        return "within noise" if line.noise else ""
    mark = "**short**" if verdict.goal.every_row else "slower"
    return f"{mark}, within noise" if line.noise else mark


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for cells in body:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return _NOTHING
    if value == int(value):
        return f"{value:.0f}"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def times(value: float | None) -> str:
    return _NOTHING if value is None else f"{number(value)}x"


def percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{value * 100:+.0f} %"


def write(path: Path | None, text: str) -> None:
    """Writes a report to a file, or to stdout where there is none."""
    if path is None:
        print(text, end="")
    else:
        path.write_text(text)
