"""A process that becomes an actor and then makes the calls that it is told."""

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fusevol.linux.namespaces import unshare
from tests.differential.actors import ACTORS, Actor, take_on
from tests.differential.calls import Result, make

_CLONE_NEWUSER: Final = 0x10000000


class Process:
    """An actor as the test sees it."""

    def __init__(self, name: str, directory: Path) -> None:
        """Start it in `directory`, which it need not be able to reach by itself."""
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, name, str(theirs.fileno()), directory],
                pass_fds=(theirs.fileno(),), cwd=Path(__file__).parents[2],
            )  # fmt: skip
        pid = self._connection.recv()
        _map(pid, ACTORS[name])
        self._connection.send("mapped")
        assert self._connection.recv() == "ready"

    def call(self, name: str, arguments: tuple[Any, ...]) -> Result:
        """Have it make one call."""
        self._connection.send((name, arguments))
        result: Result = self._connection.recv()
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._connection.close()
        self._process.wait()


def _map(pid: int, actor: Actor) -> None:
    if actor.namespace is None:
        return
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text(
            f"0 {actor.namespace.first} {actor.namespace.number}"
        )


def _main(name: str, fd: int, directory: str) -> None:
    os.chdir(directory)
    actor = ACTORS[name]
    connection = Connection(fd)
    take_on(actor)
    if actor.namespace is not None:
        unshare(_CLONE_NEWUSER)
    connection.send(os.getpid())
    connection.recv()
    connection.send("ready")
    while True:
        try:
            call, arguments = connection.recv()
        except EOFError:
            return
        connection.send(make(call, arguments))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
