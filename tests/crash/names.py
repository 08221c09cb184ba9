"""A tree that one client has to itself and changes at random; a model says what has to happen."""

import os
import stat
from collections.abc import Callable
from typing import Any, Final

from fusevol.linux.files import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from fusevol.record.record import OK, errno_name
from tests.crash.client import Client
from tests.crash.model import Kind, Model, Node

_NAMES: Final = ("a", "b", "c", "d d", "é", "\udcff")
_DEPTH: Final = 3
_NOWHERE: Final = "/nowhere/at/all"
_ATTRIBUTES: Final = ("user.one", "user.two")
_LONGEST_BYTES: Final = 20_000
_MODES: Final = (0o700, 0o750, 0o1777, 0o600, 0o2755)
_SYNCED: Final = 0.1
_AT_FDCWD: Final = -100
_TYPES: Final = {
    Kind.DIRECTORY: stat.S_IFDIR, Kind.FILE: stat.S_IFREG, Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
}  # fmt: skip


class Names:
    """Does one random operation with each step, and compares what it gives with the model."""

    def __init__(self, client: Client, directory: str) -> None:
        self._client = client
        self._directory = directory
        self._model = Model()
        self._steps: tuple[Callable[[], None], ...] = (
            self._mkdir, self._mkdir, self._rmdir, self._unlink, self._create, self._create,
            self._append, self._link, self._symlink, self._mknod, self._rename, self._rename,
            self._setxattr, self._removexattr, self._chmod, self._look, self._list,
        )  # fmt: skip
        client.mkdir(directory)

    def step(self) -> None:
        self._client.rng.choice(self._steps)()

    def finish(self) -> None:
        """Compare the whole tree with the model."""
        for path, node in self._model.walk().items():
            self._compare(path, node)
            if node.kind is Kind.DIRECTORY:
                self._compare_listing(path, node)
        self._compare_listing("", self._model.root)

    # --- what is done ---

    def _mkdir(self) -> None:
        self._both("mkdir", os.mkdir, self._any_path())

    def _rmdir(self) -> None:
        self._both("rmdir", os.rmdir, self._known_path(Kind.DIRECTORY))

    def _unlink(self) -> None:
        self._both("unlink", os.unlink, self._known_path())

    def _create(self) -> None:
        path = self._any_path()
        fd = self._both("create", _create, path)
        if fd is None:
            return
        content = self._content()
        try:
            self._client.write(fd, self._full(path), content)
        finally:
            os.close(fd)
        self._model.find(path).content = content

    def _append(self) -> None:
        path, node = self._object(Kind.FILE)
        if node is None or len(node.content) > _LONGEST_BYTES:
            return
        content = self._content()
        full = self._full(path)
        fd = self._client.call("open", full, os.open, full, os.O_WRONLY | os.O_APPEND)
        try:
            self._client.write(fd, full, content)
            if self._client.rng.random() < _SYNCED:
                self._client.call("fsync", full, os.fsync, fd)
        finally:
            os.close(fd)
        node.content += content

    def _link(self) -> None:
        self._both("link", _link, self._known_path(), to=self._any_path())

    def _symlink(self) -> None:
        self._both("symlink", _symlink, self._any_path(), _NOWHERE)

    def _mknod(self) -> None:
        self._both("mknod", os.mkfifo, self._any_path())

    def _rename(self) -> None:
        rng = self._client.rng
        to = self._known_path() if rng.random() < 0.5 else self._any_path()
        flags = rng.choice((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
        self._both("rename", _rename, self._known_path(), flags, to=to)

    def _setxattr(self) -> None:
        path, node = self._object(Kind.FILE, Kind.DIRECTORY)
        # The log has the name by which the kernel saw a file last.
        if node is None or node.was_linked:
            return
        name = self._client.rng.choice(_ATTRIBUTES)
        value = self._client.rng.randbytes(self._client.rng.randrange(60))
        flags = self._client.rng.choice((0, os.XATTR_CREATE, os.XATTR_REPLACE))
        self._both("setxattr", os.setxattr, path, name, value, flags, more=name)

    def _removexattr(self) -> None:
        path, node = self._object(Kind.FILE, Kind.DIRECTORY)
        if node is None or node.was_linked:
            return
        name = self._client.rng.choice(_ATTRIBUTES)
        self._both("removexattr", os.removexattr, path, name, more=name)

    def _chmod(self) -> None:
        path, node = self._object(Kind.FILE, Kind.DIRECTORY)
        if node is None or node.was_linked:
            return
        full = self._full(path)
        node.mode = self._client.rng.choice(_MODES)
        self._client.call("setattr", full, os.chmod, full, node.mode)

    def _look(self) -> None:
        path, node = self._object(*Kind)
        if node is not None:
            self._compare(path, node)

    def _list(self) -> None:
        path, node = self._object(Kind.DIRECTORY)
        if node is not None:
            self._compare_listing(path, node)

    # --- how it is compared ---

    def _both(
        self, op: str, call: Callable[..., Any], path: str, *arguments: Any,
        to: str | None = None, more: str | None = None,
    ) -> Any:  # fmt: skip
        """Make a call on the model, then on the volume; return what the latter gave."""
        names = [path] if to is None else [path, to]
        full = [self._full(name) for name in names]
        # The kernel does not even ask when both names are of one object.
        shown = f"{op} to itself" if op == "rename" and self._is_same(path, to) else op
        expected = OK
        try:
            getattr(self._model, op)(*names, *arguments)
        except OSError as error:
            expected = errno_name(error.errno or 0)
        return self._client.call(shown, full[0], call, *full, *arguments, expected=expected,
                                 more=more if to is None else full[1])  # fmt: skip

    def _compare(self, path: str, node: Node) -> None:
        full = self._full(path)
        status = self._client.call("stat", full, os.lstat, full)
        node.ino = node.ino or status.st_ino
        self._client.same("stat", full, (_TYPES[node.kind], node.ino),
                          (stat.S_IFMT(status.st_mode), status.st_ino))  # fmt: skip
        if node.mode is not None:
            self._client.same("stat (mode)", full, oct(node.mode),
                              oct(stat.S_IMODE(status.st_mode)))  # fmt: skip
        if node.kind is not Kind.DIRECTORY:
            self._client.same("stat (links)", full, node.links, status.st_nlink)
        if node.kind is Kind.SYMLINK:
            target = self._client.call("readlink", full, os.readlink, full)
            self._client.same("readlink", full, node.target, target)
        if node.kind is Kind.FILE:
            self._client.same("read", full, node.content, self._client.content_of(full))
        if node.kind in (Kind.FILE, Kind.DIRECTORY):
            names = self._client.call("listxattr", full, os.listxattr, full)
            self._client.same("listxattr", full, sorted(node.attributes), sorted(names))
            for name, value in node.attributes.items():
                got = self._client.call("getxattr", full, os.getxattr, full, name)
                self._client.same("getxattr", full, value, got)

    def _compare_listing(self, path: str, node: Node) -> None:
        full = self._full(path) if path else self._directory
        names = self._client.call("readdir", full, os.listdir, full)
        self._client.same("readdir", full, sorted(node.children), sorted(names))

    # --- what it is done to ---

    def _full(self, path: str) -> str:
        return f"{self._directory}/{path}"

    def _any_path(self) -> str:
        """A free or taken name in a directory that is there, or hardly ever one that is not."""
        rng = self._client.rng
        if rng.random() < 0.05:
            return "/".join(rng.choices(_NAMES, k=rng.randint(1, _DEPTH)))
        parents = [path for path, node in self._model.walk().items()
                   if node.kind is Kind.DIRECTORY and path.count("/") < _DEPTH - 1]  # fmt: skip
        parent = rng.choice(["", *(f"{path}/" for path in parents)])
        return parent + rng.choice(_NAMES)

    def _known_path(self, *kinds: Kind) -> str:
        """One that is there and of one of these kinds, if there is any; else any."""
        path, node = self._object(*(kinds or Kind))
        if node is None or self._client.rng.random() < 0.1:
            return self._any_path()
        return path

    def _object(self, *kinds: Kind) -> tuple[str, Node | None]:
        found = [item for item in self._model.walk().items() if item[1].kind in kinds]
        return self._client.rng.choice(found) if found else ("", None)

    def _is_same(self, path: str, to: str | None) -> bool:
        try:
            assert to is not None
            return self._model.find(path) is self._model.find(to)
        except OSError:
            return False

    def _content(self) -> bytes:
        rng = self._client.rng
        return rng.randbytes(rng.choice((1, 50, 4096, 9000)))


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def _link(path: str, to: str) -> None:
    os.link(path, to, follow_symlinks=False)


def _symlink(path: str, target: str) -> None:
    os.symlink(target, path)


def _rename(path: str, to: str, flags: int) -> None:
    renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(to), flags)
