"""Random operations, done on the host's file system and through a mount, must not differ.

Compared are each result or errno, and the trees: that of the mount with the one that grew natively,
and with the source behind the mount.
"""

import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from fusevol.linux.files import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.mounted.acting import User, acting_as, with_umask
from tests.mounted.checks.names import rename_with
from tests.mounted.mounting import Served

_SETTINGS: Final = settings(
    max_examples=int(os.environ.get("FUSEVOL_EXAMPLES", "150")),
    stateful_step_count=60,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
Repeated = tuple[bytes, int]

_numbers: Final = itertools.count()

ROOT: Final = None
ALICE: Final = User(61001, 61001, (61100,))
BOB: Final = User(61002, 61100)

_NOW_NS: Final = 10**18
"""Times that the rules set are smaller; what the kernel sets is larger."""

# Few names, so that operations meet.
NAMES: Final = st.sampled_from(["a", "b", "c", "d\udcff"])
PATHS: Final = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS: Final = st.sampled_from(["a", "b", "./c", "../a", "a/b", "dangling"])
MODES: Final = st.sampled_from([0o777, 0o755, 0o700, 0o644, 0o640, 0o600, 0o000, 0o1777, 0o2775])
CHMODS: Final = st.sampled_from([0o777, 0o750, 0o644, 0o600, 0o000, 0o4755, 0o2755, 0o6777, 0o1777])
IDS: Final = st.sampled_from([-1, 0, 61001, 61002, 61100])
OFFSETS: Final = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 70_000])
SIZES: Final = st.sampled_from([0, 1, 50, 4096, 5000, 66_000])
CONTENTS: Final = st.tuples(
    st.sampled_from([b"x", b"y", b"ab"]), st.sampled_from([0, 1, 7, 40, 5000, 70_000])
)
"""What to repeat, and how often: an example in a report stays short."""
FLAGS: Final = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        os.O_RDWR | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_PATH,
        os.O_PATH | os.O_NOFOLLOW,
    ]
)
WHO: Final = st.sampled_from([ROOT, ROOT, ROOT, ALICE, BOB])
ATTRIBUTES: Final = st.sampled_from(["user.a", "user.b", "trusted.c"])
HANDLES: Final = st.integers(0, 5)
MOST_HANDLES: Final = 6


class Status(NamedTuple):
    """What must not differ, of stat(2)."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int


class Entry(NamedTuple):
    """Status, content and attributes of one name, and the first name of the same inode."""

    status: Status
    content: bytes
    attributes: dict[str, bytes]
    same_as: str


def status_of(result: os.stat_result) -> Status:
    return Status(
        result.st_mode,
        result.st_uid,
        result.st_gid,
        result.st_nlink,
        # How large a directory is depends on its past.
        -1 if stat.S_ISDIR(result.st_mode) else result.st_size,
        min(result.st_mtime_ns, _NOW_NS),
    )


def _shortened(content: bytes) -> bytes:
    """The content, or if it is long a digest of it, which a report can show."""
    return content if len(content) < 100 else hashlib.sha256(content).hexdigest().encode()


def tree_of(top: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    first: dict[int, str] = {}
    waiting = ["."]
    while waiting:
        name = waiting.pop()
        path = top / name
        found = path.lstat()
        content = b""
        if stat.S_ISDIR(found.st_mode):
            waiting += [f"{name}/{below}" for below in sorted(os.listdir(path), reverse=True)]
        elif stat.S_ISLNK(found.st_mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(found.st_mode):
            content = _shortened(path.read_bytes())
        attributes = {
            attribute: os.getxattr(path, attribute, follow_symlinks=False)
            for attribute in sorted(os.listxattr(path, follow_symlinks=False))
        }
        same_as = first.setdefault(found.st_ino, name)
        entries[name] = Entry(status_of(found), content, attributes, same_as)
    return entries


def identities_of(top: Path) -> dict[str, tuple[int, ...]]:
    """What a mount has in common with its source only."""
    found: dict[str, tuple[int, ...]] = {}
    for directory, names, files in os.walk(top):
        for name in ("", *names, *files):
            status = os.lstat(os.path.join(directory, name))
            times = (status.st_mtime_ns, status.st_ctime_ns)
            found[os.path.relpath(os.path.join(directory, name), top)] = (status.st_ino, *times)
    return found


class Handle(NamedTuple):
    """What `who` opened, on each side."""

    native: int
    client: int
    who: User | None


class Machine(RuleBasedStateMachine):
    """Does everything twice."""

    def __init__(self, served: Served, native: Path) -> None:
        super().__init__()
        number = f"{next(_numbers)}"
        self.native = native / number
        self.client = served.mountpoint / number
        self.host = served.source / number
        self.handles: list[Handle] = []
        for top in (self.native, self.client):
            top.mkdir(mode=0o755)
            # A level more, so that ".." stays inside.
            (top / "top").mkdir()
            (top / "top").chmod(0o777)

    def teardown(self) -> None:
        try:
            self.compare_trees()
        finally:
            for handle in self.handles:
                os.close(handle.native)
                os.close(handle.client)
            shutil.rmtree(self.native)
            shutil.rmtree(self.client)

    def both(self, act: Callable[..., Any], *paths: str, who: User | None = ROOT) -> None:
        """Call `act` with paths on each side; hold that the results are the same."""
        native, client = (
            _outcome(partial(act, *(top / "top" / path for path in paths)), who)
            for top in (self.native, self.client)
        )
        assert client == native, f"native {native}, mount {client}"

    def with_handle(self, index: int, act: Callable[[int], Any]) -> None:
        """As `both`, with a descriptor, as the user who opened it.

        FUSE does not tell who uses a descriptor, so that set-ID bits go by who opened it.
        """
        if self.handles:
            handle = self.handles[index % len(self.handles)]
            native = _outcome(partial(act, handle.native), handle.who)
            client = _outcome(partial(act, handle.client), handle.who)
            assert client == native, f"native {native}, mount {client}"

    # --- names ---

    @rule(path=PATHS, mode=MODES, umask=st.sampled_from([0, 0o22, 0o77]), who=WHO)
    def mkdir(self, path: str, mode: int, umask: int, who: User | None) -> None:
        self.both(lambda p: with_umask(umask, lambda: os.mkdir(p, mode)), path, who=who)

    @rule(path=PATHS, who=WHO)
    def rmdir(self, path: str, who: User | None) -> None:
        self.both(os.rmdir, path, who=who)

    @rule(path=PATHS, who=WHO)
    def unlink(self, path: str, who: User | None) -> None:
        self.both(os.unlink, path, who=who)

    @rule(path=PATHS, says=TARGETS, who=WHO)
    def symlink(self, path: str, says: str, who: User | None) -> None:
        self.both(lambda p: os.symlink(says, p), path, who=who)

    @rule(path=PATHS)
    def readlink(self, path: str) -> None:
        self.both(os.readlink, path)

    @rule(path=PATHS, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO]), mode=MODES, who=WHO)
    def mknod(self, path: str, kind: int, mode: int, who: User | None) -> None:
        self.both(lambda p: os.mknod(p, kind | mode), path, who=who)

    @rule(old=PATHS, new=PATHS, who=WHO)
    def link(self, old: str, new: str, who: User | None) -> None:
        self.both(os.link, old, new, who=who)

    @rule(old=PATHS, new=PATHS, who=WHO)
    def rename(self, old: str, new: str, who: User | None) -> None:
        self.both(os.rename, old, new, who=who)

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([RENAME_EXCHANGE, RENAME_NOREPLACE]))
    def rename_with_flags(self, old: str, new: str, flags: int) -> None:
        self.both(lambda o, n: rename_with(o, n, flags), old, new)

    @rule(path=PATHS, who=WHO)
    def listdir(self, path: str, who: User | None) -> None:
        self.both(lambda p: sorted(os.listdir(p)), path, who=who)

    # --- attributes ---

    @rule(path=PATHS, follow=st.booleans(), who=WHO)
    def status(self, path: str, follow: bool, who: User | None) -> None:
        self.both(partial(os.stat, follow_symlinks=follow), path, who=who)

    @rule(path=PATHS, mode=CHMODS, who=WHO)
    def chmod(self, path: str, mode: int, who: User | None) -> None:
        self.both(lambda p: os.chmod(p, mode), path, who=who)

    @rule(path=PATHS, uid=IDS, gid=IDS, who=WHO)
    def chown(self, path: str, uid: int, gid: int, who: User | None) -> None:
        self.both(lambda p: os.chown(p, uid, gid, follow_symlinks=False), path, who=who)

    @rule(path=PATHS, mtime_ns=st.integers(0, _NOW_NS - 1), follow=st.booleans(), who=WHO)
    def utime(self, path: str, mtime_ns: int, follow: bool, who: User | None) -> None:
        times = (1, mtime_ns)
        self.both(lambda p: os.utime(p, ns=times, follow_symlinks=follow), path, who=who)

    @rule(path=PATHS, name=ATTRIBUTES, value=st.binary(max_size=20), who=WHO)
    def setxattr(self, path: str, name: str, value: bytes, who: User | None) -> None:
        self.both(lambda p: os.setxattr(p, name, value), path, who=who)

    @rule(path=PATHS, name=ATTRIBUTES, flags=st.sampled_from([os.XATTR_CREATE, os.XATTR_REPLACE]))
    def setxattr_with_flags(self, path: str, name: str, flags: int) -> None:
        self.both(lambda p: os.setxattr(p, name, b"flagged", flags), path)

    @rule(path=PATHS, name=ATTRIBUTES, who=WHO)
    def getxattr(self, path: str, name: str, who: User | None) -> None:
        self.both(lambda p: os.getxattr(p, name), path, who=who)

    @rule(path=PATHS, name=ATTRIBUTES, who=WHO)
    def removexattr(self, path: str, name: str, who: User | None) -> None:
        self.both(lambda p: os.removexattr(p, name), path, who=who)

    # --- content ---

    @rule(path=PATHS, size=SIZES, who=WHO)
    def truncate(self, path: str, size: int, who: User | None) -> None:
        self.both(lambda p: os.truncate(p, size), path, who=who)

    @rule(path=PATHS, flags=FLAGS, content=CONTENTS, mode=MODES, who=WHO)
    def write_whole(
        self, path: str, flags: int, content: Repeated, mode: int, who: User | None
    ) -> None:
        def write(p: Path) -> int:
            fd = os.open(p, flags | os.O_NONBLOCK, mode)
            try:
                return os.write(fd, content[0] * content[1])
            finally:
                os.close(fd)

        self.both(write, path, who=who)

    @rule(path=PATHS, who=WHO)
    def read_whole(self, path: str, who: User | None) -> None:
        def read(p: Path) -> bytes:
            fd = os.open(p, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return _shortened(os.read(fd, 200_000))
            finally:
                os.close(fd)

        self.both(read, path, who=who)

    # --- what is open ---

    @rule(path=PATHS, flags=FLAGS, mode=MODES, who=WHO)
    def open(self, path: str, flags: int, mode: int, who: User | None) -> None:
        opened: list[int] = []

        def keep(p: Path) -> None:
            opened.append(os.open(p, flags | os.O_NONBLOCK, mode))

        try:
            self.both(keep, path, who=who)
        except AssertionError:
            for fd in opened:
                os.close(fd)
            raise
        if opened:
            self.handles.append(Handle(opened[0], opened[1], who))
        if len(self.handles) > MOST_HANDLES:
            self.close(0)

    @rule(index=HANDLES)
    def close(self, index: int) -> None:
        if self.handles:
            handle = self.handles.pop(index % len(self.handles))
            os.close(handle.native)
            os.close(handle.client)

    @rule(index=HANDLES, offset=OFFSETS, content=CONTENTS)
    def pwrite(self, index: int, offset: int, content: Repeated) -> None:
        self.with_handle(index, lambda fd: os.pwrite(fd, content[0] * content[1], offset))

    @rule(index=HANDLES, content=CONTENTS)
    def write(self, index: int, content: Repeated) -> None:
        self.with_handle(index, lambda fd: os.write(fd, content[0] * content[1]))

    @rule(index=HANDLES, offset=OFFSETS, size=SIZES)
    def pread(self, index: int, offset: int, size: int) -> None:
        self.with_handle(index, lambda fd: _shortened(os.pread(fd, size, offset)))

    @rule(index=HANDLES, size=SIZES)
    def read(self, index: int, size: int) -> None:
        self.with_handle(index, lambda fd: _shortened(os.read(fd, size)))

    @rule(index=HANDLES, offset=OFFSETS, whence=st.sampled_from([os.SEEK_SET, os.SEEK_END]))
    def seek(self, index: int, offset: int, whence: int) -> None:
        def seek(fd: int) -> int | None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return None
            return os.lseek(fd, offset, whence)

        self.with_handle(index, seek)

    @rule(index=HANDLES, size=SIZES)
    def ftruncate(self, index: int, size: int) -> None:
        self.with_handle(index, lambda fd: os.ftruncate(fd, size))

    @rule(index=HANDLES)
    def fstat(self, index: int) -> None:
        self.with_handle(index, os.fstat)

    @rule(index=HANDLES, mode=CHMODS)
    def fchmod(self, index: int, mode: int) -> None:
        self.with_handle(index, lambda fd: os.fchmod(fd, mode))

    @rule(index=HANDLES, mtime_ns=st.integers(0, _NOW_NS - 1))
    def futimens(self, index: int, mtime_ns: int) -> None:
        self.with_handle(index, lambda fd: os.utime(fd, ns=(1, mtime_ns)))

    @rule(index=HANDLES, name=ATTRIBUTES)
    def fsetxattr(self, index: int, name: str) -> None:
        self.with_handle(index, lambda fd: os.setxattr(fd, name, b"by descriptor"))

    @rule(index=HANDLES)
    def fsync(self, index: int) -> None:
        self.with_handle(index, os.fsync)

    @rule(index=HANDLES, name=NAMES)
    def create_in_directory(self, index: int, name: str) -> None:
        def create(fd: int) -> None:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK, dir_fd=fd))

        self.with_handle(index, create)

    @rule(index=HANDLES, name=NAMES)
    def stat_in_directory(self, index: int, name: str) -> None:
        self.with_handle(index, lambda fd: os.stat(name, dir_fd=fd, follow_symlinks=False))

    @rule(index=HANDLES)
    def list_descriptor(self, index: int) -> None:
        self.with_handle(index, lambda fd: sorted(os.listdir(fd)))

    # --- everything ---

    @rule()
    def compare_trees(self) -> None:
        native = tree_of(self.native)
        assert tree_of(self.client) == native
        assert tree_of(self.host) == native
        assert identities_of(self.client) == identities_of(self.host)


def _outcome(call: Callable[[], Any], who: User | None) -> Any:
    """What the call returns, made comparable, or the name of its errno."""
    try:
        result = call() if who is None else acting_as(who, call)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error)
    return status_of(result) if isinstance(result, os.stat_result) else result


@pytest.mark.timeout(600)  # finding the smallest example of a failure takes its time
def test_mount_behaves_like_the_host(served: Served, module_workspace: Path) -> None:
    native = module_workspace / f"native-{served.level}"
    native.mkdir()
    machine = cast("type[RuleBasedStateMachine]", partial(Machine, served, native))
    run_state_machine_as_test(machine, settings=_SETTINGS)
