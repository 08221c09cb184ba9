"""What clients do, on a volume and on its twin, which must not tell them apart."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from tests.promises.options import Feature
from tests.promises.volume import Volume

OK: Final = "ok"
_MOST_HANDLES: Final = 4
_MOST_IN_A_PAGE: Final = 1000

Outcome = Any
"""What a call returned, made comparable, or the name of its errno."""


class Operation(NamedTuple):
    """One call of a client, or a few that belong together.

    Attributes:
        kind: a key of `_KINDS`.
        path, other: relative to the volume.
        size: in bytes; also which handle is meant.
    """

    kind: str
    path: str
    other: str
    size: int


class Done(NamedTuple):
    """An operation that took effect, as the log has it."""

    op: str
    path: str | None
    more: str | None


def _make_file(path: str, _other: str, size: int) -> int:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    try:
        return os.write(fd, b"n" * size)
    finally:
        os.close(fd)


def _append(path: str, _other: str, size: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        return os.write(fd, b"a" * size)
    finally:
        os.close(fd)


def _overwrite(path: str, _other: str, size: int) -> int:
    fd = os.open(path, os.O_RDWR)
    try:
        return os.pwrite(fd, b"o" * size, size // 2)
    finally:
        os.close(fd)


def _read(path: str, _other: str, _size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


_KINDS: Final[dict[str, Callable[[str, str, int], Any]]] = {
    "make": _make_file,
    "append": _append,
    "overwrite": _overwrite,
    "read": _read,
    "truncate": lambda path, _other, size: os.truncate(path, size),
    "chmod": lambda path, _other, size: os.chmod(path, 0o600 | size % 64),
    "setxattr": lambda path, _other, size: os.setxattr(path, "user.x", b"v" * (size % 50)),
    "stat": lambda path, _other, _size: _facts(os.lstat(path)),
    "list": lambda path, _other, _size: sorted(os.listdir(path)),
    "mkdir": lambda path, _other, _size: os.mkdir(path),
    "rmdir": lambda path, _other, _size: os.rmdir(path),
    "unlink": lambda path, _other, _size: os.unlink(path),
    "rename": lambda path, other, _size: os.rename(path, other),
    "link": lambda path, other, _size: os.link(path, other),
    "symlink": lambda path, _other, _size: os.symlink("a/b", path),
}
_CONTENT: Final = ("append", "overwrite", "read", "truncate", "chmod", "setxattr", "stat")
"""What a single file can have done to it."""
_HANDLES: Final = ("open", "handle-write", "handle-read", "close")
LOGGED: Final = {
    "make": "create", "mkdir": "mkdir", "rmdir": "rmdir", "unlink": "unlink", "rename": "rename",
    "link": "link", "symlink": "symlink", "setxattr": "setxattr",
}  # fmt: skip
"""What has one record each, at any level, if it took effect."""

# Few names, most of them near the top, so that operations meet and often succeed.
_PATHS: Final = st.sampled_from(
    [*"abcabc", "a/a", "a/b", "a/c", "b/a", "b/b", "c/a", "c/b", "a/a/a", "a/a/b", "b/a/b"]
)
_WEIGHTED: Final = [*_KINDS, *_HANDLES, *LOGGED, *LOGGED]
OPERATIONS: Final = st.lists(
    st.builds(
        Operation,
        st.sampled_from(_WEIGHTED), _PATHS, _PATHS,
        st.sampled_from([0, 1, 100, 4096, 20_000]),
    ),
    min_size=3,
    max_size=12,
)  # fmt: skip


def _facts(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_uid, status.st_gid, status.st_nlink, size


def _outcome(call: Callable[[], Any]) -> Outcome:
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error)


@dataclass
class Clients:
    """Does everything twice, and keeps what took effect.

    Attributes:
        done: what the log has to have, in its order.
    """

    volume: Volume
    done: list[Done] = field(default_factory=list)
    _open: list[tuple[int, int]] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        """Do it on both sides.

        Raises:
            AssertionError: the outcomes differ.
        """
        fitting = self._fitting(operation)
        if fitting is None:
            return
        if fitting.kind in _HANDLES:
            self._with_handles(fitting)
            return
        native = _outcome(partial(_act, fitting, self.volume.twin))
        client = _outcome(partial(_act, fitting, self.volume.client))
        assert client == native, f"{fitting}: native {native!r}, volume {client!r}"
        self._remember(fitting, native)

    def _fitting(self, operation: Operation) -> Operation | None:
        """What becomes of an operation on a single file: on the file itself, or nothing."""
        if Feature.SINGLE_FILE not in self.volume.options:
            return operation
        if operation.kind in _CONTENT or operation.kind in _HANDLES:
            return operation._replace(path="", other="")
        return None

    def do_on_host(self, operations: list[Operation]) -> None:
        """Do it to the source and to the twin, past the volume."""
        for operation in map(self._fitting, operations):
            if operation is not None and operation.kind in _KINDS:
                for top in (self.volume.source, self.volume.native):
                    _outcome(partial(_act, operation, top))

    def are_refused(self) -> None:
        """Make directories until there is no room for a record; that one must have no effect."""
        if {Feature.SINGLE_FILE, Feature.READ_ONLY} & self.volume.options.features:
            return
        for number in range(_MOST_IN_A_PAGE):
            operation = Operation("mkdir", f"refused-{len(self.done)}-{number}", "", 0)
            outcome = _outcome(partial(_act, operation, self.volume.client))
            if outcome is not None:
                break
            _act(operation, self.volume.twin)
            self._remember(operation, None)
        else:
            raise AssertionError("there is no room for records, and operations go on")
        if outcome == "EIO":
            assert not os.path.lexists(_below(self.volume.source, operation.path))

    def _remember(self, operation: Operation, outcome: Outcome) -> None:
        op = LOGGED.get(operation.kind)
        # ENOSPC of the write that follows a create.
        took_effect = not isinstance(outcome, str) or (op == "create" and outcome == "ENOSPC")
        if op is None or not took_effect:
            return
        path: str | None = f"/{operation.path}"
        more = f"/{operation.other}" if op in ("rename", "link") else None
        if op == "rename" and operation.path == operation.other:
            return
        if op in ("link", "setxattr"):
            # The log has one of the names of the object, which may be another at level data.
            path = None
        self.done.append(Done(op, path, "user.x" if op == "setxattr" else more))

    def _with_handles(self, operation: Operation) -> None:
        if operation.kind == "open":
            self._open_another(operation)
        elif self._open:
            index = operation.size % len(self._open)
            if operation.kind == "close":
                self._close(index)
                return
            native, client = (
                _outcome(partial(_on_handle, fd, operation)) for fd in self._open[index]
            )
            assert client == native, f"{operation}: native {native!r}, volume {client!r}"

    def _open_another(self, operation: Operation) -> None:
        flags = os.O_RDWR | (os.O_APPEND if operation.size == 1 else 0)
        native, client = (
            _outcome(partial(os.open, _below(top, operation.path), flags))
            for top in (self.volume.twin, self.volume.client)
        )
        opened = [fd for fd in (native, client) if isinstance(fd, int)]
        if len(opened) == 2:
            self._open.append((native, client))
        else:
            for fd in opened:
                os.close(fd)
            assert client == native, f"{operation}: native {native!r}, volume {client!r}"
        if len(self._open) > _MOST_HANDLES:
            self._close(0)

    def _close(self, index: int) -> None:
        for fd in self._open.pop(index):
            os.close(fd)

    def close_all(self) -> None:
        """Close what is open."""
        while self._open:
            self._close(0)


def _act(operation: Operation, top: Path) -> Any:
    path, other = (_below(top, path) for path in (operation.path, operation.other))
    return _KINDS[operation.kind](path, other, operation.size)


def _on_handle(fd: int, operation: Operation) -> Outcome:
    if operation.kind == "handle-write":
        return os.write(fd, b"h" * operation.size)
    return os.pread(fd, 1 << 20, 0)


def _below(top: Path, path: str) -> str:
    return f"{top}/{path}" if path else str(top)


def tree_of(top: Path) -> dict[str, object]:
    """Everything that is below a path, and the path itself, in a form that can be compared."""
    found: dict[str, object] = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        full = _below(top, path)
        status = os.lstat(full)
        content: object = None
        attributes: dict[str, bytes] = {}
        if stat.S_ISDIR(status.st_mode):
            content = sorted(os.listdir(full))
            waiting += [f"{path}/{name}".lstrip("/") for name in content]
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            content = Path(full).read_bytes()
            attributes = {name: os.getxattr(full, name) for name in os.listxattr(full)}
        found[path] = (_facts(status), content, attributes)
    return found
