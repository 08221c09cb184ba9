"""The OCI runtime that makes containers: crun, runc, or another with their command line.

Each call runs in a mount namespace of its own, where the root file system of the container can be
mounted and goes away with the call, unless the container was made of it. The runtime dies with the
process that called it.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Final, Never

from fusevol.containers import cgroup
from fusevol.errors import EXIT_NOT_RUN, FusevolError, NotFoundError
from fusevol.linux import mounts
from fusevol.linux.child import in_child
from fusevol.linux.namespaces import CLONE_NEWNS, unshare
from fusevol.linux.process import reset_signals

USUAL: Final = ("crun", "runc")
"""What is looked for if none is named, the quickest first."""
_PLACES: Final = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
"""Searched after PATH, which need not have those of the administrator."""

EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
"""Docker's exit codes: the command cannot be executed, or is not there."""

_EXECUTION: Final = ("executable", "exec: ", "exec container process")
"""What crun and runc write of a command that cannot be executed, and of nothing else."""
_REFUSED: Final = ("permission denied", "operation not permitted", "exec format error")

_INSTALL: Final = "install crun or runc: apt-get install crun"


def find_runtime(word: str | None = None) -> str:
    """Return the path of the runtime that a word names, by its name or path; None for any.

    Raises:
        NotFoundError: it is not installed.
    """
    for name in USUAL if word is None else (word,):
        path = f"{os.environ.get('PATH', '')}:{_PLACES}"
        if found := shutil.which(name, path=path):
            return os.path.abspath(found)
    if word is None:
        raise NotFoundError(f"no OCI runtime is installed; {_INSTALL}")
    raise NotFoundError(f"no OCI runtime {word}; {_INSTALL}")


class RuntimeFailedError(Exception):
    """The runtime could not do what it was called for, and has said so on standard error.

    Attributes:
        status: what to exit with, as Docker does.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        lower = message.lower()
        self.status = EXIT_NOT_RUN
        if any(word in lower for word in _EXECUTION):
            refused = any(word in lower for word in _REFUSED)
            self.status = EXIT_NOT_EXECUTABLE if refused else EXIT_NOT_FOUND


class Runtime:
    """A runtime, for one container."""

    def __init__(self, program: str, container_id: str, states: str, directory: str) -> None:
        """Prepare.

        Args:
            program: its path.
            container_id: the container.
            states: directory in which the runtime keeps what it knows of containers.
            directory: for files of this run.
        """
        self._program = program
        self._id = container_id
        self._states = states
        self._log = os.path.join(directory, "runtime.log")
        self._pid_file = os.path.join(directory, "pid")

    def create(
        self, bundle: str, prepare: Callable[[], None], console: str | None, interactive: bool
    ) -> int:
        """Create the container, with a command that waits; return its process id.

        It becomes a child of this process if that adopts orphans.

        Args:
            bundle: directory of config.json.
            prepare: called first, in the mount namespace that the container is made in.
            console: socket that gets the container's terminal; None if it has none.
            interactive: it has this process's standard input; else none.

        Raises:
            RuntimeFailedError: the runtime failed.
            FusevolError: `prepare` failed, or the runtime was killed.
        """

        def prepared() -> None:
            prepare()
            if not interactive:
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)

        words = ["--bundle", bundle, "--pid-file", self._pid_file]
        if console is not None:
            words += ["--console-socket", console]
        self._call("create", words, prepared)
        try:
            with open(self._pid_file) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            raise FusevolError(
                f"{self._program} is not an OCI runtime: it created no container"
            ) from None

    def start(self) -> None:
        """Let the command begin; RuntimeFailedError if the runtime failed."""
        self._call("start", ())

    def delete(self) -> None:
        """Forget the container, which has ended, or never quite began; it is gone in any case."""
        try:
            self._call("delete", ("--force",), _without_output)
        except (RuntimeFailedError, FusevolError):
            # It knows no such container. What it may have left is seen to by `clean_up`.
            return

    def _call(
        self, command: str, words: Sequence[str], prepare: Callable[[], None] = lambda: None
    ) -> None:
        line = [
            self._program, "--root", self._states, "--log", self._log,
            command, *words, self._id,
        ]  # fmt: skip

        def execute() -> Never:
            unshare(CLONE_NEWNS)
            mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE, "")
            if mixed := cgroup.mixed_hierarchy():
                # crun refuses to work beside it, and nobody needs it for limits.
                mounts.umount(mixed, mounts.MNT_DETACH)
            prepare()
            reset_signals()
            os.execv(self._program, line)

        try:
            in_child(execute, self._killed)
        except FusevolError as error:
            if str(error):
                raise
            raise RuntimeFailedError(self._complaint()) from None

    def _killed(self, number: int) -> FusevolError:
        return FusevolError(f"{self._program} was killed by signal {number}; try again")

    def _complaint(self) -> str:
        """Return what the runtime wrote to its log."""
        try:
            with open(self._log, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""


def _without_output() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
