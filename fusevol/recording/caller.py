"""Which process and which container is behind a thread id.

FUSE names the thread that makes a request. While it waits for the answer it cannot end, so its
/proc entry can be read without a race. The entry's `comm` file is kept open: it belongs to that
very thread and fails with ESRCH when the thread is gone, so one pread(2) shows at each request both
that the id was not given to another thread and what the process is called now. Everything else is
read once for a thread, again when its name changes (exec), and again after a quarter of a second
(a process may be moved to another cgroup).

What cannot be looked up is said to be unknown, and why: no caller looks like a process of the host
because a look-up failed.
"""

import errno
import os
from typing import Final

from fusevol.linux.container_id import container_id
from fusevol.linux.thread_credentials import is_proc_ours
from fusevol.model import INVISIBLE, UNKNOWN, Caller
from fusevol.names import encode_name
from fusevol.record.record import errno_name

_KEPT: Final = 512
"""Control groups whose container is remembered."""
_FRESH_NS: Final = 250_000_000
"""How long a container id is taken for right without a look."""
_COMM_BYTES: Final = 64
_IO_URING: Final = "iou-"
"""Names of the kernel's threads that do the work of a process's io_uring: iou-wrk-N, iou-sqp-N."""
_PF_IO_WORKER: Final = 0x10
"""What identifies them (linux/sched.h): anybody can have such a name."""
_FLAGS_FIELD: Final = 6
"""Of /proc/TID/stat, counted from behind the name (proc_pid_stat(5))."""

_INVISIBLE: Final = Caller(0, None, UNKNOWN, INVISIBLE)


class _Known(Caller):
    """A remembered thread."""

    __slots__ = ("checked_ns", "fd", "is_process_known", "raw_comm")

    def __init__(self, pid: int, fd: int) -> None:
        super().__init__(pid)
        self.fd = fd
        self.raw_comm = b""
        self.checked_ns = 0
        self.is_process_known = False


class Callers:
    """The threads that made requests lately. One thread only."""

    def __init__(self, limit: int) -> None:
        """Start with none known; keep up to `limit` of them, each with a descriptor."""
        self.last_tid = 0
        """The thread that was identified last."""
        self._limit = limit
        self._known: dict[int, _Known] = {}
        self._containers: dict[bytes, str | None] = {}
        self._is_proc_ours = is_proc_ours()

    def identify(self, tid: int, now_ns: int) -> Caller:
        """Return the process of thread `tid`, while it waits for the answer to its request.

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

    def is_ring(self, tid: int, comm: str | None) -> bool:
        """Return whether thread `tid`, called `comm`, does the work of an io_uring."""
        if comm is None or not comm.startswith(_IO_URING):
            return False
        try:
            stat = self._read(f"/proc/{tid}/stat")
        except OSError:
            return False
        flags = stat.rpartition(b") ")[2].split()[_FLAGS_FIELD]
        return bool(int(flags) & _PF_IO_WORKER)

    def _meet(self, tid: int, now_ns: int) -> Caller:
        if not self._is_proc_ours:
            return Caller(tid, None, UNKNOWN, INVISIBLE)
        try:
            fd = self._open(f"/proc/{tid}/comm")
            try:
                raw = os.pread(fd, _COMM_BYTES, 0)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            return Caller(tid, None, UNKNOWN, errno_name(error.errno or errno.EIO))
        if len(self._known) >= self._limit:
            self._drop(next(iter(self._known)))
        known = self._known[tid] = _Known(tid, fd)
        return self._refresh(known, tid, raw, now_ns)

    def _refresh(self, known: _Known, tid: int, raw_comm: bytes, now_ns: int) -> Caller:
        known.raw_comm = raw_comm
        known.comm = encode_name(raw_comm.removesuffix(b"\n"))
        try:
            if not known.is_process_known:
                known.pid = int(self._status_field(tid, b"Tgid:"))
                known.is_process_known = True
            known.container = self._container_of(tid)
        except OSError as error:
            known.container = UNKNOWN
            known.error = errno_name(error.errno or errno.EIO)
            # To be looked up again with the next request.
            known.checked_ns = now_ns - _FRESH_NS
        else:
            known.error = None
            known.checked_ns = now_ns
        return known

    def _container_of(self, tid: int) -> str | None:
        text = self._read(f"/proc/{tid}/cgroup")
        try:
            return self._containers[text]
        except KeyError:
            if len(self._containers) >= _KEPT:
                self._containers.clear()
            found = self._containers[text] = container_id(os.fsdecode(text))
            return found

    def _status_field(self, tid: int, key: bytes) -> bytes:
        for line in self._read(f"/proc/{tid}/status").splitlines():
            if line.startswith(key):
                return line[len(key) :].strip()
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def _read(self, path: str) -> bytes:
        fd = self._open(path)
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or len(self._known) < 2:
                raise
        # The newest may be the one that is being looked up.
        for tid in [*self._known][: (len(self._known) + 1) // 2]:
            self._drop(tid)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _drop(self, tid: int) -> None:
        os.close(self._known.pop(tid).fd)
