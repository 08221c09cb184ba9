"""What a process asks of the kernel for itself (prctl(2)), and the identity of processes."""

import contextlib
import ctypes
import os
import platform
import resource
import select
import signal
from functools import cache
from typing import Final

import msgspec

from fusevol.linux.libc import checked, libc, quick_libc

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_IO_FLUSHER: Final = 57
_SYS_PIDFD_GETFD: Final = 438
_CLONE_FILES: Final = 0x400
_SYS_CLONE: Final = 56 if platform.machine() == "x86_64" else 220
"""220 in the table that newer architectures share (asm-generic/unistd.h)."""


DESCRIPTORS_KEPT: Final = 64
"""How many a worker leaves to its keeper, in the table that they share."""


def use_all_descriptors() -> None:
    """Raise the limit of open files to what this process may have (getrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reap_all_but(known: set[int]) -> None:
    """Wait for children that have ended, but not for those that others wait for.

    Such are what an earlier program of this process has started, before an execve(2).
    """
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in known:
                return
            os.waitpid(found.si_pid, 0)


class Process(msgspec.Struct, frozen=True):
    """A process, distinguished from a later one of the same id by when it started.

    Attributes:
        start_ticks: see the function of this name; 0 for a process that is none.
        pid_namespace: inode number of the pid namespace that `pid` is an id in; 0 for this one.
    """

    pid: int
    start_ticks: int
    pid_namespace: int = 0

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Return the process that has this id now."""
        return cls(pid, start_ticks(pid), own_pid_namespace())

    @classmethod
    def current(cls) -> "Process":
        """Return this process."""
        return cls.of(os.getpid())

    def runs(self) -> bool:
        """Return whether it still runs; False for one whose id is not valid here."""
        return (
            self.pid > 0
            and self.pid_namespace in (0, own_pid_namespace())
            and 0 < self.start_ticks == start_ticks(self.pid)
        )

    def open(self) -> int:
        """Return a pidfd of it; -1 if it has ended (pidfd_open(2))."""
        try:
            fd = os.pidfd_open(self.pid) if self.pid > 0 else -1
        except OSError:
            return -1
        # Looked at after it was opened: the id cannot go to another process in between.
        if fd >= 0 and not self.runs():
            os.close(fd)
            return -1
        return fd

    def signal(self, number: int) -> bool:
        """Send a signal to it and to no other; return whether it still ran."""
        fd = self.open()
        if fd < 0:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


@cache
def own_pid_namespace() -> int:
    """Return the inode number of the pid namespace that this process has its id in."""
    return os.stat("/proc/self/ns/pid").st_ino


def die_with_parent(number: int) -> None:
    """Have signal `number` sent to this process when the thread that forked it ends.

    Cleared by fork(2). If the parent may have ended before, compare os.getppid() afterwards.
    """
    checked(libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    checked(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def reset_signals() -> None:
    """Have every signal do what it does by default, before another program is executed.

    What a process ignores, the program that it executes does too (execve(2)).
    """
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def comm(pid: int) -> str:
    """Return the name of a process, at most 15 bytes; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none or it ended.

    With the process id it identifies a process, also among later ones of that id (proc_pid_stat(5),
    field 22).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def fork_sharing_descriptors() -> int:
    """Fork a process that shares this one's descriptor table (clone(2), CLONE_FILES).

    What either opens or closes, the other has open or closed, and the table outlives each of them.
    Returns the process id, 0 in the child. The caller must have one thread only, since the C
    library is not told; the child must end by os._exit(), as objects of the parent are still there
    and would close its descriptors.
    """
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid: int = quick_libc.syscall(_SYS_CLONE, _CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
    number = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    if pid == -1:
        raise OSError(number, os.strerror(number))
    return pid


def serve_reclaim() -> bool:
    """Tell the kernel that memory is freed with the help of this process; return whether it may.

    It then does not wait for itself when memory runs out (PR_SET_IO_FLUSHER, Linux 5.6, takes
    CAP_SYS_RESOURCE). Inherited by children.
    """
    return bool(libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def avoid_oom_killer(score: int) -> bool:
    """Have others killed first when memory runs out (proc_pid_oom_score_adj(5)).

    Returns whether it may; lowering the value takes CAP_SYS_RESOURCE.
    """
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        return False
    return True


def has_ended(pidfd: int) -> bool:
    """Return whether a process has ended, waited for or not (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def descriptor_of(pidfd: int, fd: int) -> int:
    """Return a duplicate of another process's descriptor (pidfd_getfd(2), Linux 5.6).

    Raises:
        OSError: EPERM unless this process may trace the other; EBADF, ESRCH.
    """
    copy: int = checked(libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    return copy
