"""The status that an agent publishes, for `fusevol status` and the metrics."""

import hashlib
import os

import msgspec

from fusevol.linux.files import replace
from fusevol.linux.process import Process
from fusevol.options.config import runtime_directory


class SinkStatus(msgspec.Struct):
    """One sink.

    Attributes:
        sink: as the user named it.
        seq: number of the last record that it was given.
        behind: how many records wait for it.
        error: why it is given none right now; "" if it is.
        error_since: when that began, in seconds since 1970; 0 if it works.
    """

    sink: str
    seq: int
    behind: int
    error: str = ""
    error_since: float = 0.0


class AgentStatus(msgspec.Struct):
    """The agent of one log.

    Attributes:
        log: path of the log.
        pid: the agent.
        sinks: where records go besides.
        rotated_files: how many rotated files there are.
        total_bytes: what they and the log take.
        free_bytes: what is free on their file system.
        start_ticks, pid_namespace: distinguish the agent from a later process of its id.
    """

    log: str
    pid: int
    sinks: list[SinkStatus] = []
    rotated_files: int = 0
    total_bytes: int = 0
    free_bytes: int = 0
    start_ticks: int = 0
    pid_namespace: int = 0

    @property
    def process(self) -> Process:
        """The agent."""
        return Process(self.pid, self.start_ticks, self.pid_namespace)


def read(log: str) -> AgentStatus | None:
    """Return what the agent of a log said last; None if none is at work."""
    try:
        with open(_path(log), "rb") as file:
            status = msgspec.json.decode(file.read(), type=AgentStatus)
    except (OSError, msgspec.DecodeError):
        return None
    # An earlier version did not say when it started.
    return status if not status.start_ticks or status.process.runs() else None


def write(status: AgentStatus) -> None:
    """Replace what `read` returns; OSError if that fails. When the agent started is filled in."""
    agent = Process.of(status.pid)
    status = msgspec.structs.replace(
        status, start_ticks=agent.start_ticks, pid_namespace=agent.pid_namespace
    )
    path = _path(status.log)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    replace(path, msgspec.json.encode(status))


def remove(log: str) -> None:
    """Remove what was written."""
    try:
        os.unlink(_path(log))
    except FileNotFoundError:
        pass


def _path(log: str) -> str:
    return os.path.join(runtime_directory(), "agents", file_name(log))


def file_name(log: str) -> str:
    """Return the name of the files that an agent keeps about a log, whatever path leads to it."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(log))).hexdigest()[:32]
    return f"{name}.json"
