"""Runs workloads on a volume while what serves it is killed, and checks everything afterwards."""

import contextlib
import mmap
import os
import shutil
import statistics
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fusevol.logagent import status
from fusevol.logs.log_end import end_of_log
from fusevol.mounts.registry import messages_path
from tests.crash.account import read_accounts
from tests.crash.killer import INTERVAL_S, Death, Target, killer_at, serving_at
from tests.crash.logcheck import look_through
from tests.crash.running import await_end, workloads_in
from tests.crash.sink import Sink
from tests.crash.trees import wrong_tree
from tests.crash.workload import Figures
from tests.mounted.mounting import workspace
from tests.served import Served, fusevol, serve, stay, wait_until

STORM: Final = "storm"
WORKLOADS: Final = (STORM, "fio", "git", "sqlite", "postgres", "container")
_CACHED_S: Final = 1.2
_AGENT_S: Final = 90.0
_SENT_S: Final = 180.0
_AFTER_S: Final = 0.1
"""A call that began within this time after a death waits for the successor, too."""


@dataclass
class Run:
    """What came of a run.

    Attributes:
        wrong: what was not as it has to be; empty if all is well.
        deaths: what was killed.
        figures: what each workload did, and what those that serve came to have.
        pauses_s: for each death the time that the longest call took, in seconds.
    """

    wrong: list[str] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    figures: dict[str, Figures] = field(default_factory=dict)
    pauses_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        kills = Counter(death.target.value for death in self.deaths)
        lines = [f"{count} x {target} ended" for target, count in kills.items()]
        lines += [f"{name}: {figures}" for name, figures in self.figures.items()]
        if self.pauses_s:
            lines.append(
                f"longest call over a restart: median {statistics.median(self.pauses_s):.3f} s, "
                f"worst {max(self.pauses_s):.3f} s"
            )
        return "\n".join([*lines, *(f"WRONG: {wrong}" for wrong in self.wrong)])


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seconds: how long workloads run.
        targets: what is ended, in turn.
        level: the record level.
        names: the workloads.
        interval_s: shortest and longest time between two deaths.
        evidence: a directory that gets the log and the accounts, if anything is wrong.
        options: further words after -o, about the log.
        sink: whether records go to a sink, too.
    """

    seconds: float
    targets: tuple[Target, ...]
    level: str = "all"
    names: tuple[str, ...] = (STORM,)
    interval_s: tuple[float, float] = INTERVAL_S
    evidence: Path | None = None
    options: str = ""
    sink: bool = False

    @property
    def needs_agent(self) -> bool:
        """Whether the log has an agent."""
        return self.sink or "rotate" in self.options


def run(plan: Plan) -> Run:
    """Serve an empty volume, run workloads on it, end what serves it meanwhile, and check.

    Raises:
        AssertionError: the volume is not served any more, or does not answer.
    """
    done = Run()
    with workspace() as directory:
        scratch = directory / "scratch"
        scratch.mkdir()
        with _sink(directory, plan) as sink, _serving(directory, plan) as served:
            _work(served, scratch, plan, done)
            done.wrong += _wrong_agent(served, plan)
            time.sleep(_CACHED_S if plan.level == "data" else 0)
            done.wrong += wrong_tree(served.source, served.mountpoint)
            restarts = served.status()["restarts"]
            successions = [death for death in done.deaths if death.target is not Target.AGENT]
            if restarts != len(successions):
                done.wrong.append(f"status tells of {restarts} restarts, not {len(successions)}")
            done.figures |= _processes(served)
            if done.wrong:
                done.wrong.append(f"messages of fusevol: {_messages(served)}")
            if sink is not None:
                done.wrong += _behind(served)
            served.unmount()
            found = look_through(served.log, scratch, f"/{STORM}", plan.level)
            if sink is not None and (missing := sink.missing(set(range(1, found.records + 1)))):
                done.wrong += [*missing, f"messages of fusevol: {_messages(served)}"]
        if "chain" in plan.options:
            done.wrong += _wrong_chain(served.log)
        done.wrong += found.wrong + _wrong_reasons(found.restarts, successions)
        done.pauses_s = _pauses_s(scratch, done.deaths)
        if done.wrong and plan.evidence is not None:
            shutil.copytree(scratch, plan.evidence, dirs_exist_ok=True)
            shutil.copy2(served.log, plan.evidence)
    return done


def _wrong_chain(log: Path) -> list[str]:
    verified = fusevol("log", "verify", log, check=False)
    return [] if verified.returncode == 0 else [verified.stdout + verified.stderr]


@contextlib.contextmanager
def _sink(directory: Path, plan: Plan) -> Iterator[Sink | None]:
    if not plan.sink:
        yield None
        return
    with Sink(directory / "sink") as sink:
        yield sink


def _wrong_agent(served: Served, plan: Plan) -> list[str]:
    if not plan.needs_agent:
        return []
    return _missed(
        lambda: (at := serving_at(served.mountpoint)) is not None and at.agent != 0,
        "agent of the log in the end", _AGENT_S,
    )  # fmt: skip


def _behind(served: Served) -> list[str]:
    """Wait until the agent has sent all.

    Who ends a mount ends its agent soon; the next one would send what is left. What has come to the
    sink may be of an agent that was killed, and the one after it may be far behind.
    """
    end = end_of_log(str(served.log)).seq

    def has_sent_all() -> bool:
        agent = status.read(str(served.log))
        return agent is not None and agent.sinks[0].seq >= end

    return _missed(has_sent_all, f"record {end} at the sink", _SENT_S)


def _missed(condition: Callable[[], bool], what: str, seconds: float) -> list[str]:
    """Wait for a condition; return what to say if it does not come true in time."""
    try:
        wait_until(condition, what, seconds)
    except AssertionError as error:
        return [str(error)]
    return []


def _work(served: Served, scratch: Path, plan: Plan, done: Run) -> None:
    killer = killer_at(served.mountpoint, plan.targets, plan.interval_s)
    with workloads_in(served.mountpoint, scratch, plan.seconds, plan.names) as workloads:
        with killer:
            await_end(workloads, plan.seconds, lambda: killer.has_failed)
        for workload in workloads:
            try:
                done.figures[workload.name] = workload.figures()
            except AssertionError as error:
                done.wrong.append(str(error))
    done.deaths = killer.deaths


@contextlib.contextmanager
def _serving(directory: Path, plan: Plan) -> Iterator[Served]:
    """Serve inside the block; whatever goes wrong there, no client hangs afterwards."""
    words = [plan.options] if plan.options else []
    words += [f"sinks=unix:{directory / 'sink'}"] if plan.sink else []
    options = ["--record", plan.level, *(["-o", ",".join(words)] if words else [])]
    # Only who stays with a mount can revive it.
    serving = stay if Target.BOTH in plan.targets else serve
    with serving(directory, *options) as served:
        try:
            yield served
        except BaseException as error:
            fusevol("unmount", "--force", served.mountpoint, check=False)
            error.add_note(f"messages of fusevol: {_messages(served)}")
            error.add_note(f"the log ends with: {served.log.read_bytes()[-2000:].decode()}")
            raise


def _processes(served: Served) -> dict[str, Figures]:
    """Return what those that serve have open, and their memory, all clients being gone."""
    status = served.status()
    figures = {}
    for name, pid in (("keeper", status["pid"]), ("worker", status["worker"])):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
        figures[name] = {
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "resident_mb": round(resident / 1e6, 1),
        }
    return figures


def _messages(served: Served) -> str:
    try:
        return Path(messages_path(str(served.mountpoint))).read_text(errors="replace")[-2000:]
    except FileNotFoundError:
        return "none"


def _wrong_reasons(reasons: list[str], deaths: list[Death]) -> list[str]:
    """Compare the `restart` records with what was killed."""
    if len(reasons) != len(deaths):
        return [f"{len(reasons)} restart records, {len(deaths)} restarts: {reasons[-5:]}"]
    begins = {Target.WORKER: "worker killed by SIGKILL", Target.RELOAD: "reload"}
    return [f"{death.target.value} no. {number}: reason {reason!r}"
            for number, (reason, death) in enumerate(zip(reasons, deaths, strict=True))
            if not reason.startswith(begins.get(death.target, ""))]  # fmt: skip


def _pauses_s(scratch: Path, deaths: list[Death]) -> list[float]:
    """Return how long the longest call took that each death fell into."""
    moments = [death.at for death in deaths]
    pauses = [0.0] * len(moments)
    for one in read_accounts(scratch):
        first = bisect_left(moments, one.start - _AFTER_S)
        for number in range(first, bisect_right(moments, one.end)):
            pauses[number] = max(pauses[number], one.end - one.start)
    return pauses
