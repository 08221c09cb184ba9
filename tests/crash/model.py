"""A file system in memory that says what each call has to give, errno included."""

import errno
import os
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn

from fusevol.linux.files import RENAME_EXCHANGE, RENAME_NOREPLACE


class Kind(Enum):
    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    FIFO = "FIFO"


@dataclass(eq=False)
class Node:
    """An object of the file system.

    `was_linked`: it has, or had, more than one name. `mode` is None until it was set, `ino` is what
    stat(2) said first.
    """

    kind: Kind
    children: dict[str, "Node"] = field(default_factory=dict)
    content: bytes = b""
    target: str = ""
    attributes: dict[str, bytes] = field(default_factory=dict)
    links: int = 1
    was_linked: bool = False
    mode: int | None = None
    ino: int = 0


class Model:
    """Knows the calls by the names of the access log. Paths are relative: "a/b/c".

    Each raises the OSError that Linux would, and then has no effect.
    """

    def __init__(self) -> None:
        self.root = Node(Kind.DIRECTORY)

    def find(self, path: str) -> Node:
        """Return what is there; a symbolic link is not followed."""
        parent, name = self._parent(path)
        return parent.children.get(name) or _fail(errno.ENOENT)

    def mkdir(self, path: str) -> None:
        self._add(path, Node(Kind.DIRECTORY))

    def symlink(self, path: str, target: str) -> None:
        self._add(path, Node(Kind.SYMLINK, target=target))

    def mknod(self, path: str) -> None:
        self._add(path, Node(Kind.FIFO))

    def create(self, path: str) -> None:
        self._add(path, Node(Kind.FILE))

    def link(self, path: str, to: str) -> None:
        node = self.find(path)
        parent, name = self._parent(to)
        if name in parent.children:
            _fail(errno.EEXIST)
        if node.kind is Kind.DIRECTORY:
            _fail(errno.EPERM)
        parent.children[name] = node
        node.links += 1
        node.was_linked = True

    def unlink(self, path: str) -> None:
        parent, name = self._parent(path)
        node = self.find(path)
        if node.kind is Kind.DIRECTORY:
            _fail(errno.EISDIR)
        del parent.children[name]
        node.links -= 1

    def rmdir(self, path: str) -> None:
        parent, name = self._parent(path)
        node = self.find(path)
        if node.kind is not Kind.DIRECTORY:
            _fail(errno.ENOTDIR)
        if node.children:
            _fail(errno.ENOTEMPTY)
        del parent.children[name]

    def rename(self, path: str, to: str, flags: int) -> None:
        parent, name = self._parent(path)
        new_parent, new_name = self._parent(to)
        node, replaced = parent.children.get(name), new_parent.children.get(new_name)
        if node is None:
            _fail(errno.ENOENT)
        if flags & RENAME_NOREPLACE and replaced is not None:
            _fail(errno.EEXIST)
        if flags & RENAME_EXCHANGE and replaced is None:
            _fail(errno.ENOENT)
        if f"{to}/".startswith(f"{path}/") and to != path:
            _fail(errno.EINVAL)
        if f"{path}/".startswith(f"{to}/") and to != path:
            _fail(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)
        if node is replaced:
            return
        if flags & RENAME_EXCHANGE:
            assert replaced is not None
            parent.children[name] = replaced
        else:
            if replaced is not None:
                _may_replace(node, replaced)
                replaced.links -= 1
            del parent.children[name]
        new_parent.children[new_name] = node

    def setxattr(self, path: str, attribute: str, value: bytes, flags: int) -> None:
        attributes = self.find(path).attributes
        if flags & os.XATTR_CREATE and attribute in attributes:
            _fail(errno.EEXIST)
        if flags & os.XATTR_REPLACE and attribute not in attributes:
            _fail(errno.ENODATA)
        attributes[attribute] = value

    def removexattr(self, path: str, attribute: str) -> None:
        attributes = self.find(path).attributes
        if attribute not in attributes:
            _fail(errno.ENODATA)
        del attributes[attribute]

    def walk(self) -> dict[str, Node]:
        """Return everything by its path, parents first."""
        found: dict[str, Node] = {}
        pending = [("", self.root)]
        while pending:
            prefix, directory = pending.pop()
            for name, node in directory.children.items():
                found[prefix + name] = node
                pending.append((f"{prefix}{name}/", node))
        return found

    def _parent(self, path: str) -> tuple[Node, str]:
        *directories, name = path.split("/")
        parent = self.root
        for part in directories:
            parent = parent.children.get(part) or _fail(errno.ENOENT)
            if parent.kind is Kind.SYMLINK:
                # All of them lead nowhere.
                _fail(errno.ENOENT)
            if parent.kind is not Kind.DIRECTORY:
                _fail(errno.ENOTDIR)
        return parent, name

    def _add(self, path: str, node: Node) -> None:
        parent, name = self._parent(path)
        if name in parent.children:
            _fail(errno.EEXIST)
        parent.children[name] = node


def _may_replace(node: Node, replaced: Node) -> None:
    if node.kind is not Kind.DIRECTORY and replaced.kind is Kind.DIRECTORY:
        _fail(errno.EISDIR)
    if node.kind is Kind.DIRECTORY and replaced.kind is not Kind.DIRECTORY:
        _fail(errno.ENOTDIR)
    if replaced.children:
        _fail(errno.ENOTEMPTY)


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
