"""What has been measured, and what follows from it: medians, ratios, geometric means, verdicts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, log
from statistics import median
from typing import Final

from benchmarks.peers import Peer
from benchmarks.workloads import Row, Sample, Workload

Notes = dict[str, dict[str, str]]
"""Explanations by people: 'ours/theirs' -> row name -> text."""


@dataclass(frozen=True)
class Goal:
    """What fusevol is to reach beside another peer."""

    ours: str
    theirs: str
    mean: float
    """How many times as fast it has to be, as the geometric mean over all rows."""
    every_row: bool
    """Whether it also has to be faster in each row."""

    @property
    def key(self) -> str:
        return f"{self.ours}/{self.theirs}"


GOALS: Final = (
    Goal("fusevol-all", "loggedfs", 2.0, every_row=True),
    Goal("fusevol-data", "bindfs", 1.0, every_row=False),
)

LOG_COST: Final = (
    ("fusevol-all-nolog", ("fusevol-all", "fusevol-all-disklog", "fusevol-all-nulllog")),
    ("fusevol-data-nolog", ("fusevol-data",)),
)
"""What has no log, and what differs from it only by having one."""


@dataclass(frozen=True)
class Failure:
    workload: str
    peer: str
    round: int
    message: str


@dataclass(frozen=True)
class Line:
    """One row of a verdict."""

    row: Row
    ours: float | None
    theirs: float
    times: float | None
    """How many times as fast ours is; None where there is no value of ours."""
    noise: bool
    """The two ranges over the rounds overlap: another run may turn the line round."""
    note: str

    @property
    def slower(self) -> bool:
        return self.times is None or self.times < 1


@dataclass(frozen=True)
class Verdict:
    goal: Goal
    lines: tuple[Line, ...]
    mean: float | None
    means: dict[str, float]
    """Workload name -> geometric mean of its rows."""

    @property
    def reached(self) -> bool:
        if self.mean is None or self.mean < self.goal.mean:
            return False
        unmeasured = any(line.ours is None for line in self.lines)
        return not unmeasured and not (
            self.goal.every_row and any(line.slower for line in self.lines)
        )


@dataclass
class Results:
    """The samples of a run, in the order in which they came."""

    peers: Sequence[Peer]
    workloads: list[Workload] = field(default_factory=list)
    """Those that were begun."""
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """(workload name, peer name) -> one sample per round."""
    failures: list[Failure] = field(default_factory=list)

    def add(self, workload: Workload, peer: Peer, sample: Sample) -> None:
        self.samples.setdefault((workload.name, peer.name), []).append(sample)

    def values(self, workload: Workload, row: Row, peer: str) -> list[float]:
        return [sample.values[row.name] for sample in self.samples.get((workload.name, peer), [])]

    def median(self, workload: Workload, row: Row, peer: str) -> float | None:
        values = self.values(workload, row, peer)
        return median(values) if values else None

    def ratio(self, workload: Workload, row: Row, peer: str, base: str) -> float | None:
        """The time `peer` takes as a multiple of the time `base` takes, also for rates."""
        one, other = self.median(workload, row, peer), self.median(workload, row, base)
        if not one or not other:
            return None
        return other / one if row.is_rate else one / other

    def ratios(self, workload: Workload, peer: str, base: str) -> list[float]:
        found = (self.ratio(workload, row, peer, base) for row in workload.rows)
        return [ratio for ratio in found if ratio is not None]

    def compared(self) -> list[Workload]:
        return [workload for workload in self.workloads if workload.compared]

    def has(self, peer: str) -> bool:
        return any(name == peer for _, name in self.samples)

    def verdicts(self, notes: Notes) -> list[Verdict]:
        return [
            self._verdict(goal, notes.get(goal.key, {}))
            for goal in GOALS
            if self.has(goal.ours) and self.has(goal.theirs)
        ]

    def _verdict(self, goal: Goal, notes: dict[str, str]) -> Verdict:
        lines: list[Line] = []
        means: dict[str, float] = {}
        for workload in self.compared():
            ratios = self.ratios(workload, goal.theirs, goal.ours)
            if (mean := geometric_mean(ratios)) is not None:
                means[workload.name] = mean
            for row in workload.rows:
                theirs = self.median(workload, row, goal.theirs)
                if theirs is None:
                    continue
                lines.append(
                    Line(
                        row,
                        ours=self.median(workload, row, goal.ours),
                        theirs=theirs,
                        times=self.ratio(workload, row, goal.theirs, goal.ours),
                        noise=_overlap(
                            self.values(workload, row, goal.ours),
                            self.values(workload, row, goal.theirs),
                        ),
                        note=notes.get(row.name, ""),
                    )
                )
        total = geometric_mean(line.times for line in lines if line.times is not None)
        return Verdict(goal, tuple(lines), total, means)


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


def _overlap(some: Sequence[float], others: Sequence[float]) -> bool:
    return bool(some and others) and min(some) <= max(others) and min(others) <= max(some)
