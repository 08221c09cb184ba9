"""A shell in a container that is talked to over a pipe: one way for every engine and runtime."""

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from tests.engines.machine import end
from tests.patience import PATIENCE_S

_MARK: Final = "--end-of-answer--"


class ShellError(AssertionError):
    """A script failed, or there is nobody to run it."""


class Shell:
    """The first process of a container: `COMMAND... sh`, its standard input and output."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start the container and wait until its shell answers.

        Args:
            command: runs the container with standard input kept open.
            env: what to add to the environment.

        Raises:
            ShellError: the container does not come up; with what the engine said.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the pipes
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, **(env or {})}, bufsize=0,
        )  # fmt: skip
        try:
            self("true")
        except BaseException:
            self.kill()
            raise

    @property
    def engine_pid(self) -> int:
        """The process that was started here: the engine's client, or the runner."""
        return self._process.pid

    def __call__(self, script: str, check: bool = True) -> str:
        """Run a script and return what it printed, without the last newline.

        Raises:
            ShellError: it failed and `check`; or the container has ended.
        """
        assert self._process.stdin
        try:
            self._process.stdin.write(f"({script}\n) 2>&1; echo; echo {_MARK}$?\n".encode())
        except BrokenPipeError:
            raise ShellError(self._said()) from None
        text, status = self._answer()
        if check and status:
            raise ShellError(f"{script!r} ended with {status}: {text}")
        return text

    def close(self) -> int:
        """End the shell by the end of its input; return the status of the engine's command."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            status = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ShellError("the container did not end with its shell") from None
        self._close_pipes()
        return status

    def kill(self) -> None:
        """End the engine's command, not the container."""
        end(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe
            pipe.close()

    def _answer(self) -> tuple[str, int]:
        assert self._process.stdout
        got = b""
        deadline = time.monotonic() + PATIENCE_S
        mark = re.compile(rb"\n%s(\d+)\n" % _MARK.encode())
        while not (found := mark.search(got)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise ShellError(f"no answer within {PATIENCE_S:g} s; so far: {got!r}")
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                raise ShellError(self._said())
            got += more
        return got[: found.start()].decode(errors="surrogateescape").removesuffix("\n"), int(
            found[1]
        )

    def _said(self) -> str:
        self._process.wait(PATIENCE_S)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f"the container ended with {self._process.returncode}: {said}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if kind is not None:
            self.kill()
        elif self._process.poll() is None and self._process.stdin:
            self.close()
        else:
            self._close_pipes()
