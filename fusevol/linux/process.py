"""What a process asks of the kernel for itself (prctl(2)), and how one is told from another."""

from typing import Final

from fusevol.linux.libc import checked, libc

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: int) -> None:
    """Have signal `number` sent to this process when the thread that forked it ends.

    Cleared by fork(2). If the parent may have ended before, compare os.getppid() afterwards.
    """
    checked(libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none or it ended.

    With the process id it tells a process from a later one of the same id (proc_pid_stat(5),
    field 22).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
