"""Callers looked up with real processes, and what is said when the look-up fails."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fusevol.model import INVISIBLE, UNKNOWN
from fusevol.recording.caller import Callers
from tests.served import needs_root

_SECOND_NS = 1_000_000_000


@contextmanager
def _sleeping(name: str) -> Iterator[int]:
    """Run a process that is called so and waits to be ended."""
    with subprocess.Popen(
        ["bash", "-c", f"printf {name} >/proc/self/comm; read"], stdin=subprocess.PIPE
    ) as process:
        while name not in _comm(process.pid):
            pass
        yield process.pid
        process.communicate(b"\n")


def _comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read()


@contextmanager
def _no_descriptors_left(spare: int = 0) -> Iterator[None]:
    """Have this process use up its descriptors, but for some."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_thread_is_told_by_its_process() -> None:
    found: list[int] = []
    started, done = threading.Event(), threading.Event()

    def run() -> None:
        found.append(threading.get_native_id())
        started.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    caller = Callers(4).identify(found[0], 0)
    done.set()
    thread.join()
    assert (caller.pid, caller.error) == (os.getpid(), None)


def test_a_look_up_that_finds_no_descriptor_says_so() -> None:
    with _sleeping("first") as pid, _no_descriptors_left():
        caller = Callers(4).identify(pid, 0)
    assert (caller.pid, caller.comm, caller.container) == (pid, None, UNKNOWN)
    assert caller.error == "EMFILE"


def test_what_failed_is_looked_up_again_with_the_next_request() -> None:
    callers = Callers(4)
    with _sleeping("second") as pid:
        with _no_descriptors_left(spare=1):
            # The name is known; what would tell the container takes another descriptor.
            caller = callers.identify(pid, 0)
            assert (caller.comm, caller.container, caller.error) == ("second", UNKNOWN, "EMFILE")
        caller = callers.identify(pid, 1)
        assert (caller.comm, caller.error) == ("second", None)
        assert caller.container != UNKNOWN


def test_descriptors_of_callers_known_are_given_up_for_a_new_one() -> None:
    callers = Callers(16)
    with _sleeping("one") as one, _sleeping("two") as two, _sleeping("three") as three:
        for pid in (one, two):
            assert callers.identify(pid, 0).error is None
        with _no_descriptors_left():
            assert callers.identify(three, 0).error is None
            assert callers.identify(one, 2 * _SECOND_NS).comm == "one"


def test_a_process_that_is_gone_is_not_one_of_the_host() -> None:
    with _sleeping("gone") as pid:
        pass
    caller = Callers(4).identify(pid, 0)
    assert (caller.container, caller.error) == (UNKNOWN, errno.errorcode[errno.ENOENT])


@needs_root
def test_a_proc_of_other_processes_is_not_asked() -> None:
    """In a pid namespace of its own, with the /proc of the host: process 1 there is another."""
    program = (
        "import os; from fusevol.recording.caller import Callers\n"
        "one = Callers(4).identify(os.getpid(), 0); print(one.pid, one.comm, one.error)"
    )
    said = subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == f"1 None {INVISIBLE}\n"


def test_who_is_not_visible_is_not_one_of_the_host() -> None:
    caller = Callers(4).identify(0, 0)
    assert (caller.pid, caller.container, caller.error) == (0, UNKNOWN, INVISIBLE)
