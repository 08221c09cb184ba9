"""Which process and which container is behind a thread id.

FUSE tells the thread that makes a request. While it waits for the answer it cannot end, so its
/proc entry can be read without a race. The entry's `comm` file is kept open: it belongs to that
very thread and fails with ESRCH when the thread is gone, so one pread(2) tells at each request both
that the id was not given to another thread and what the process is called now. Everything else is
read once for a thread, again when its name changes (exec), and again after a quarter of a second
(a process may be moved to another cgroup).
"""

import os
from typing import Final

from fusevol.accesslog.container import container_id
from fusevol.accesslog.names import encode_name
from fusevol.linux.credentials import CAP_FSETID
from fusevol.model import Caller

_KEPT: Final = 512
"""Control groups whose container is remembered."""
_FRESH_NS: Final = 250_000_000
"""How long a container id is taken for right without a look."""
_COMM_BYTES: Final = 64

_INVISIBLE: Final = Caller(0)


class _Known(Caller):
    """A remembered thread."""

    __slots__ = ("checked_ns", "fd", "raw_comm")

    def __init__(self, pid: int, fd: int) -> None:
        super().__init__(pid)
        self.fd = fd
        self.raw_comm = b""
        self.checked_ns = 0


class Callers:
    """The threads that made requests lately. One thread only."""

    def __init__(self, limit: int) -> None:
        """Start with none known; keep up to `limit` of them, each with a descriptor."""
        self.last_tid = 0
        """The thread that was identified last."""
        self._limit = limit
        self._known: dict[int, _Known] = {}
        self._containers: dict[bytes, str | None] = {}

    def identify(self, tid: int, now_ns: int) -> Caller:
        """Return who thread `tid` belongs to, while it waits for the answer to its request.

        Args:
            tid: thread id of the request; 0 if the caller is not visible in our pid namespace.
            now_ns: a monotonic clock, in nanoseconds.
        """
        self.last_tid = tid
        known = self._known.get(tid)
        if known is not None:
            try:
                raw = os.pread(known.fd, _COMM_BYTES, 0)
            except OSError:
                self._drop(tid)
            else:
                if raw == known.raw_comm and now_ns - known.checked_ns < _FRESH_NS:
                    return known
                return self._refresh(known, tid, raw, now_ns)
        return self._meet(tid, now_ns) if tid > 0 else _INVISIBLE

    def may_keep_set_id(self, tid: int) -> bool:
        """Tell whether thread `tid` has CAP_FSETID in effect (proc_pid_status(5), CapEff)."""
        effective = _status_field(tid, b"CapEff:")
        return effective is not None and bool(int(effective, 16) >> CAP_FSETID & 1)

    def _meet(self, tid: int, now_ns: int) -> Caller:
        try:
            fd = os.open(f"/proc/{tid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return Caller(tid)
        try:
            raw = os.pread(fd, _COMM_BYTES, 0)
        except OSError:
            os.close(fd)
            return Caller(tid)
        if len(self._known) >= self._limit:
            self._drop(next(iter(self._known)))
        known = self._known[tid] = _Known(_process_of(tid), fd)
        return self._refresh(known, tid, raw, now_ns)

    def _refresh(self, known: _Known, tid: int, raw_comm: bytes, now_ns: int) -> Caller:
        known.raw_comm = raw_comm
        known.comm = encode_name(raw_comm.removesuffix(b"\n"))
        known.container = self._container_of(tid)
        known.checked_ns = now_ns
        return known

    def _container_of(self, tid: int) -> str | None:
        try:
            text = _read(f"/proc/{tid}/cgroup")
        except OSError:
            return None
        try:
            return self._containers[text]
        except KeyError:
            if len(self._containers) >= _KEPT:
                self._containers.clear()
            found = self._containers[text] = container_id(os.fsdecode(text))
            return found

    def _drop(self, tid: int) -> None:
        os.close(self._known.pop(tid).fd)


def _process_of(tid: int) -> int:
    """Return the process that thread `tid` belongs to."""
    tgid = _status_field(tid, b"Tgid:")
    return tid if tgid is None else int(tgid)


def _status_field(tid: int, key: bytes) -> bytes | None:
    try:
        for line in _read(f"/proc/{tid}/status").splitlines():
            if line.startswith(key):
                return line[len(key) :].strip()
    except OSError:
        pass
    return None


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
