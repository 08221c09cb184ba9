"""Rules for every run.

No silent pass without FUSE. No mount outlives its test module. Signals mean what they mean on a
terminal, however the run was started. Other runs on the machine change nothing in a run's folder.
With several processes (pytest-xdist), a module stays whole.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from fusevol.recovery import layout
from tests.turns import turns

settings.register_profile("fusevol", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# How long an example takes says how busy the machine is.
settings.load_profile("fusevol")

_PREFIX: Final = "fv-tests-"
_KEPT_S: Final = 86400
"""How long the folder of a run that failed is kept."""
_FOLDER: Final = pytest.StashKey[str]()
_LONGEST_FIRST: Final = ("engines", "crash", "hung", "mounted", "programs")
"""Folders whose modules take minutes, so that none of them is the last to run, on its own."""


class FuseMount(NamedTuple):
    mount_id: int
    mount_point: bytes


def fuse_mounts(below: Path) -> set[FuseMount]:
    """The FUSE mounts below a folder, each with its id, as paths can be mounted twice."""
    mounts = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        file_system = fields[fields.index(b"-") + 1]
        if file_system.startswith(b"fuse") and file_system != b"fusectl":
            path = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), fields[4])
            if path.startswith(os.fsencode(below) + b"/"):
                mounts.add(FuseMount(int(fields[0]), path))
    return mounts


def pytest_sessionstart() -> None:
    # It is worked out once, from constants of which a test may have changed one at that moment.
    layout.version()
    # A run that skips whatever mounts would look like one that passed.
    if (os.environ.get("CI") or os.geteuid() == 0) and not Path("/dev/fuse").exists():
        pytest.exit("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)", 1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.option.basetemp:
        # Every run takes from others the right to enter pytest's own folder, /tmp/pytest-of-USER,
        # below which programs of other users have their volumes.
        _remove(*(path for path in Path("/tmp").glob(f"{_PREFIX}*") if _is_old(path)))
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")
        os.chmod(folder, 0o755)
        config.option.basetemp = f"{folder}/tests"
        config.stash[_FOLDER] = folder
    # What a script starts in its background has SIGINT and SIGQUIT ignored, what nohup(1) starts
    # SIGHUP, and so have its children. A handler is not inherited: what the tests start has the
    # defaults, and this process goes on to ignore what it was told to.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    folder = session.config.stash.get(_FOLDER, None)
    if folder is not None and exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        _remove(folder)


def _is_old(path: Path) -> bool:
    status = path.lstat()
    return status.st_uid == os.geteuid() and status.st_mtime < time.time() - _KEPT_S


def _remove(*folders: str | Path) -> None:
    # What is still mounted there is not to be emptied.
    subprocess.run(["rm", "-rf", "--one-file-system", *folders], check=False)


def pytest_report_header(config: pytest.Config) -> str:
    return f"folder: {config.option.basetemp}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadGroupScheduling

    class Modules(LoadGroupScheduling):  # type: ignore[misc]
        """Has the tests of a module run in one process, and the modules that take turns."""

        def _split_scope(self, nodeid: str) -> str:
            return str(super()._split_scope(nodeid)).partition("::")[0]

    return Modules(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_order)


def _order(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    # Here, and not in a fixture: the clock of pytest-timeout does not run yet.
    turns.take(item)
    try:
        return (yield)
    finally:
        turns.give_back(nextitem)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # What is kept of logs outlives them, and would go on with a path of an earlier run.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_leftover_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Only what this run made: others may mount and unmount on the machine meanwhile.
    ours = tmp_path_factory.getbasetemp().resolve()
    before = fuse_mounts(ours)
    yield
    leftover = fuse_mounts(ours) - before
    # The newest first: mounts can stand on top of each other.
    for mount in sorted(leftover, reverse=True):
        subprocess.run(["umount", "--lazy", mount.mount_point], check=False)
    if leftover:
        paths = ", ".join(sorted(os.fsdecode(mount.mount_point) for mount in leftover))
        pytest.fail(f"still mounted after the last test of this module: {paths}", pytrace=False)
