"""Containers of `fusevol run`, as they are kept on disk.

Each has a directory named after its id below STATE/containers, readable for its owner only:

    container.json   what it is and how it is (`Container`), replaced atomically
    config.json      settings for its runtime (OCI runtime specification)
    upper, work      what it changed, and overlayfs's scratch space

Entries are believed as far as the processes they name still run.
"""

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from fusevol.containers.ids import IdRange, free_range
from fusevol.containers.trees import remove_tree
from fusevol.errors import NotFoundError, UsageError
from fusevol.linux.files import replace
from fusevol.linux.process import Process
from fusevol.options import config
from fusevol.options.binding import Binding

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_FILE: Final = "container.json"
_REMOVALS: Final = 50


class Container(msgspec.Struct):
    """A container, running or ended.

    Attributes:
        id: 64 hexadecimal digits.
        created: RFC 3339, UTC.
        command: what runs in it.
        image: `oci:DIR[:TAG]`; empty if it was made from a directory.
        manifest_digest: the very manifest; empty without an image.
        lowers: directories of the root file system below `upper`, the topmost first.
        bindings: its volumes.
        init: the first process of the container, as the host sees it; None before it starts.
        monitor: the process that waits for it and cleans up.
        status: exit status of the command, 128 + N if signal N ended it; None until it ended.
        remove_at_end: nothing of it is kept when it has ended.
        runtime: path of the program that made it.
        ids: the host's ids of its users; None if they are those of the host.
    """

    id: str
    name: str
    created: str
    command: list[str]
    lowers: list[str]
    image: str = ""
    manifest_digest: str = ""
    bindings: list[Binding] = []
    init: Process | None = None
    monitor: Process | None = None
    status: int | None = None
    remove_at_end: bool = False
    runtime: str = ""
    ids: IdRange | None = None

    @classmethod
    def load(cls, container_id: str) -> "Container":
        """Return a container by its full id, as it is now.

        Raises:
            FileNotFoundError: there is none.
        """
        with open(os.path.join(containers_directory(), container_id, _FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=cls)

    @property
    def is_running(self) -> bool:
        """Whether its first process runs."""
        return self.init is not None and self.init.runs()

    @property
    def is_watched(self) -> bool:
        """Whether its monitor runs, which starts it or cleans up after it before and afterwards."""
        return self.monitor is not None and self.monitor.runs()

    @property
    def is_abandoned(self) -> bool:
        """Whether its monitor was killed, and nobody has cleaned up yet."""
        return self.status is None and self.monitor is not None and not self.monitor.runs()

    @property
    def directory(self) -> str:
        """Where it is kept."""
        return os.path.join(containers_directory(), self.id)

    @property
    def upper(self) -> str:
        """The directory of what it changed, in overlayfs's form."""
        return os.path.join(self.directory, "upper")

    @property
    def work(self) -> str:
        """Overlayfs's scratch space."""
        return os.path.join(self.directory, "work")

    @property
    def merged(self) -> str:
        """Where its root file system is put together, in namespaces of the runtime and its own."""
        return os.path.join(self.directory, "merged")

    def create(self, users: int = 0) -> None:
        """Make its directories, empty, and its entry.

        Args:
            users: how many users it has that are not those of the host.

        Raises:
            UsageError: another has its name.
            NotFoundError: there are not so many users.
        """
        with _locked():
            check_free(self.name)
            if users:
                # On disk, what ended containers have changed belongs to none of these ids.
                others = [one.ids for one in all_containers() if one.ids and one.status is None]
                self.ids = free_range(users, others)
            os.mkdir(self.directory, 0o700)
            self.save()
        for path in (self.upper, self.work, self.merged):
            os.mkdir(path, 0o755)
        # Of the root, overlayfs shows what the topmost directory has.
        _copy_attributes(self.lowers[0], self.upper)

    def save(self) -> None:
        """Write its entry; replaces an older one atomically."""
        replace(os.path.join(self.directory, _FILE), msgspec.json.encode(self))

    def remove(self) -> None:
        """Remove its directory and what it changed; another may be doing so, too."""
        for _ in range(_REMOVALS):
            try:
                remove_tree(self.directory)
            except OSError as error:
                # One of its processes wrote the entry once more, as its last act.
                if error.errno != errno.ENOTEMPTY:
                    raise
                time.sleep(0.02)
            else:
                return
        remove_tree(self.directory)


def _copy_attributes(source: str, target: str) -> None:
    """Give a directory owner, mode, extended attributes and times of another."""
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def containers_directory() -> str:
    """Return where containers are kept, made with mode 0700 if it is missing."""
    path = os.path.join(config.state_directory(), "containers")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def check_name(name: str) -> None:
    """Raise UsageError if a container cannot be called so."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid container name {name!r}; use letters, digits, '_', '.' and '-', at most 128, "
            f"and begin with a letter or digit"
        )


def check_free(name: str) -> None:
    """Raise UsageError if there is a container that is called so."""
    if any(found.name == name for found in all_containers()):
        raise UsageError(f"container {name} already exists; remove it with `fusevol rm {name}`")


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time give names."""
    fd = os.open(containers_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def all_containers() -> list[Container]:
    """Return all containers, the oldest first; entries that cannot be read are left out."""
    found = []
    with os.scandir(containers_directory()) as entries:
        for entry in entries:
            try:
                found.append(Container.load(entry.name))
            except (OSError, msgspec.DecodeError):
                continue
    return sorted(found, key=lambda container: container.created)


def find_container(word: str) -> Container:
    """Return the container with this name, this id, or an id that alone begins so.

    Raises:
        NotFoundError: there is none.
        UsageError: several ids begin so.
    """
    found = all_containers()
    for container in found:
        if word in (container.name, container.id):
            return container
    begun = [container for container in found if word and container.id.startswith(word)]
    if len(begun) > 1:
        raise UsageError(f"several container ids begin with {word}; give more digits")
    if not begun:
        raise NotFoundError(f"no container {word}; `fusevol ps --all` lists them")
    return begun[0]
