"""Rights: owners, modes, umask, set-ID bits, groups, access control lists."""

import errno
import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import Final

from fusevol.linux.files import RENAME_WHITEOUT, renameat2
from tests.mounted.acting import User, acting_as, with_umask
from tests.mounted.checks.table import check, fails_with, may_fail_with, opened

ALICE: Final = User(61001, 61001, (61100,))
BOB: Final = User(61002, 61002)
SHARED_GROUP: Final = 61100

_ACL_VERSION: Final = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID: Final = 0xFFFFFFFF
_AT_FDCWD: Final = -100
_ACCESS: Final = "system.posix_acl_access"
_DEFAULT: Final = "system.posix_acl_default"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """(tag, permissions, id) as the attribute holds them (linux/posix_acl_xattr.h)."""
    packed = (struct.pack("<HHI", tag, rights, who) for tag, rights, who in entries)
    return struct.pack("<I", _ACL_VERSION) + b"".join(packed)


def open_to_all(directory: Path) -> None:
    directory.chmod(0o777)


@check
def new_objects_belong_to_the_caller(directory: Path) -> None:
    open_to_all(directory)

    def make() -> None:
        (directory / "file").write_text("x")
        (directory / "sub").mkdir()
        (directory / "link").symlink_to("x")
        os.mkfifo(directory / "fifo")
        os.mknod(directory / "node", stat.S_IFREG | 0o600)

    acting_as(ALICE, make)
    for name in ("file", "sub", "link", "fifo", "node"):
        status = (directory / name).lstat()
        assert (status.st_uid, status.st_gid) == (ALICE.uid, ALICE.gid), name


@check
def modes_decide(directory: Path) -> None:
    secret = directory / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    (directory / "closed").mkdir(mode=0o700)
    (directory / "closed" / "file").touch(mode=0o666)

    def try_all() -> None:
        for denied in (secret, directory / "closed" / "file", directory / "new"):
            with fails_with(errno.EACCES):
                os.open(denied, os.O_RDWR | os.O_CREAT)
        with fails_with(errno.EACCES):
            os.listdir(directory / "closed")
        with fails_with(errno.EACCES):
            os.unlink(secret)
        with fails_with(errno.EACCES):
            os.rename(secret, directory / "mine")
        with fails_with(errno.EPERM):
            secret.chmod(0o777)
        with fails_with(errno.EPERM):
            os.chown(secret, ALICE.uid, -1)
        with fails_with(errno.EACCES):
            os.truncate(secret, 0)
        assert not os.access(secret, os.R_OK)
        assert os.access(directory, os.R_OK | os.X_OK)

    acting_as(ALICE, try_all)


@check
def supplementary_groups_count(directory: Path) -> None:
    shared = directory / "shared"
    shared.mkdir()
    os.chown(shared, 0, SHARED_GROUP)
    shared.chmod(0o770)
    (shared / "report").write_text("for the group")
    os.chown(shared / "report", 0, SHARED_GROUP)
    (shared / "report").chmod(0o660)

    def use() -> None:
        assert (shared / "report").read_text() == "for the group"
        (shared / "made").write_text("x")
        os.chown(shared / "made", -1, SHARED_GROUP)
        with fails_with(errno.EPERM):
            os.chown(shared / "made", -1, 61101)

    acting_as(ALICE, use)
    made = (shared / "made").stat()
    assert (made.st_uid, made.st_gid) == (ALICE.uid, SHARED_GROUP)
    with fails_with(errno.EACCES):
        acting_as(BOB, (shared / "report").read_text)


@check
def umask_counts(directory: Path) -> None:
    def make() -> None:
        os.close(os.open(directory / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(directory / "sub", 0o777)
        os.mkfifo(directory / "fifo", 0o666)
        os.symlink("x", directory / "link")

    with_umask(0o027, make)
    assert mode_of(directory / "file") == 0o640
    assert mode_of(directory / "sub") == 0o750
    assert mode_of(directory / "fifo") == 0o640
    assert mode_of(directory / "link") == 0o777
    with_umask(0, lambda: os.mkdir(directory / "open", 0o777))
    assert mode_of(directory / "open") == 0o777


@check
def set_group_id_directories_pass_their_group_on(directory: Path) -> None:
    shared = directory / "shared"
    shared.mkdir()
    os.chown(shared, 0, SHARED_GROUP)
    shared.chmod(0o2777)

    def make() -> None:
        (shared / "file").touch()
        (shared / "sub").mkdir()
        os.mkfifo(shared / "fifo")
        (shared / "link").symlink_to("x")
        fd = os.open(shared / "tool", os.O_CREAT | os.O_WRONLY, 0o2755)
        os.close(fd)

    for user in (ALICE, BOB):
        acting_as(user, make)
        for name in ("file", "sub", "fifo", "link", "tool"):
            status = (shared / name).lstat()
            assert (status.st_uid, status.st_gid) == (user.uid, SHARED_GROUP), name
        assert mode_of(shared / "sub") & 0o2000
        member = SHARED_GROUP in user.groups
        assert bool(mode_of(shared / "tool") & 0o2000) == member
        for name in ("file", "fifo", "link", "tool"):
            (shared / name).unlink()
        (shared / "sub").rmdir()


@check
def sticky_directories_protect(directory: Path) -> None:
    directory.chmod(0o1777)
    acting_as(ALICE, lambda: (directory / "alices").write_text("x"))

    def try_to_take() -> None:
        with fails_with(errno.EPERM, errno.EACCES):
            (directory / "alices").unlink()
        with fails_with(errno.EPERM, errno.EACCES):
            (directory / "alices").rename(directory / "bobs")
        (directory / "own").touch()
        with fails_with(errno.EPERM, errno.EACCES):
            (directory / "own").rename(directory / "alices")

    acting_as(BOB, try_to_take)
    acting_as(ALICE, (directory / "alices").unlink)


def _program(directory: Path, name: str, mode: int, owner: int = 0) -> Path:
    path = directory / name
    path.write_bytes(b"#!/bin/sh\n")
    os.chown(path, owner, SHARED_GROUP)
    path.chmod(mode)
    assert mode_of(path) == mode
    return path


@check
def writing_clears_set_id_bits(directory: Path) -> None:
    open_to_all(directory)
    for mode, left in ((0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o2767, 0o2767)):

        def overwrite(path: Path) -> None:
            with opened(path, os.O_WRONLY) as fd:
                os.write(fd, b"x")

        def append(path: Path) -> None:
            with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
                os.write(fd, b"x")

        def truncate(path: Path) -> None:
            os.truncate(path, 1)

        def open_truncated(path: Path) -> None:
            with opened(path, os.O_WRONLY | os.O_TRUNC):
                pass

        for change in (overwrite, append, truncate, open_truncated):
            path = _program(directory, f"{change.__name__}{mode:o}", mode)
            acting_as(BOB, lambda change=change, path=path: change(path))  # type: ignore[misc]
            # Without execute permission for the group the bit once meant mandatory locking; a
            # writer who is no member loses it on newer kernels only.
            allowed = {left, 0o767} if mode == 0o2767 else {left}
            assert mode_of(path) in allowed, f"{change.__name__} {mode:o} -> {mode_of(path):o}"


@check
def writing_by_a_descriptor_that_also_reads_clears_set_id_bits(directory: Path) -> None:
    """It may go by the page cache, for which the kernel has another way."""
    open_to_all(directory)

    def write(path: Path) -> None:
        with opened(path, os.O_RDWR) as fd:
            assert os.write(fd, b"x") == 1
            assert os.fstat(fd).st_mode & 0o6000 == 0

    for mode in (0o4777, 0o2777, 0o6777):
        path = _program(directory, f"{mode:o}", mode)
        acting_as(BOB, lambda path=path: write(path))  # type: ignore[misc]
        assert mode_of(path) == 0o777


@check
def cleared_set_id_bits_show_at_once(directory: Path) -> None:
    """Also to who asks for the mode alone, which the kernel thinks it knows."""
    open_to_all(directory)

    def shown(path: Path) -> str:
        command = ["stat", "--format=%a", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def write(path: Path) -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, b"x")

    def truncate(path: Path) -> None:
        with opened(path, os.O_WRONLY | os.O_TRUNC):
            pass

    for change in (write, truncate):
        path = _program(directory, f"clear-{change.__name__}", 0o4777)
        assert shown(path) == "4777"
        acting_as(BOB, lambda change=change, path=path: change(path))  # type: ignore[misc]
        assert shown(path) == "777"


@check
def root_keeps_set_id_bits(directory: Path) -> None:
    path = _program(directory, "program", 0o6755)
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert mode_of(path) == 0o6755
    os.truncate(path, 1)
    assert mode_of(path) == 0o6755
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass
    assert mode_of(path) == 0o6755


@check
def root_keeps_set_id_bits_that_came_while_the_file_was_open(directory: Path) -> None:
    path = directory / "program"
    with opened(path, os.O_WRONLY | os.O_CREAT, 0o644) as fd:
        os.fchmod(fd, 0o6755)
        os.write(fd, b"written last")
        assert mode_of(path) == 0o6755
    other = directory / "other"
    with opened(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o4755) as fd:
        os.write(fd, b"made so")
        assert mode_of(other) == 0o4755


@check
def set_id_bits_go_by_who_writes(directory: Path) -> None:
    path = _program(directory, "program", 0o6755)
    with opened(path, os.O_WRONLY) as fd:
        acting_as(BOB, lambda: os.write(fd, b"x"))
    assert mode_of(path) == 0o755


@check
def members_keep_the_set_group_id_bit_without_execution(directory: Path) -> None:
    """What was once mandatory locking; a writer from outside loses it on newer kernels."""
    open_to_all(directory)

    def write(path: Path) -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.write(fd, b"x")

    def truncate_opened(path: Path) -> None:
        with opened(path, os.O_WRONLY) as fd:
            os.ftruncate(fd, 1)

    def chown(path: Path) -> None:
        os.chown(path, -1, ALICE.gid)

    for change in (write, truncate_opened, chown):
        path = _program(directory, change.__name__, 0o2767, ALICE.uid)
        acting_as(ALICE, lambda change=change, path=path: change(path))  # type: ignore[misc]
        assert mode_of(path) == 0o2767, change.__name__


@check
def members_keep_the_set_group_id_bit_with_a_list(directory: Path) -> None:
    group_may_write = acl(
        (_USER_OBJ, 7, _NO_ID), (_GROUP_OBJ, 5, _NO_ID), (_GROUP, 7, SHARED_GROUP),
        (_MASK, 7, _NO_ID), (_OTHER, 5, _NO_ID),
    )  # fmt: skip
    for user, left in ((ALICE, 0o2775), (BOB, 0o775)):
        path = _program(directory, str(user.uid), 0o2755, user.uid)
        acting_as(user, lambda path=path: os.setxattr(path, _ACCESS, group_may_write))  # type: ignore[misc]
        assert mode_of(path) == left


@check
def a_change_to_the_same_owner_clears_set_id_bits(directory: Path) -> None:
    path = _program(directory, "program", 0o4755, ALICE.uid)
    with may_fail_with(errno.EPERM):
        acting_as(BOB, lambda: os.chown(path, -1, -1))
    assert mode_of(path) == 0o4755
    acting_as(ALICE, lambda: os.chown(path, -1, -1))
    assert mode_of(path) == 0o755


@check
def trusted_names_are_for_root(directory: Path) -> None:
    path = directory / "file"
    path.write_text("x")
    os.chown(path, ALICE.uid, ALICE.gid)
    for name in ("trusted.one", "user.two"):
        os.setxattr(path, name, b"x")
    assert sorted(os.listxattr(path)) == ["trusted.one", "user.two"]
    assert acting_as(ALICE, lambda: os.listxattr(path)) == ["user.two"]


@check
def a_whiteout_belongs_to_who_renamed(directory: Path) -> None:
    open_to_all(directory)

    def move() -> None:
        (directory / "old").write_text("x")
        old, new = os.fsencode(directory / "old"), os.fsencode(directory / "new")
        renameat2(_AT_FDCWD, old, _AT_FDCWD, new, RENAME_WHITEOUT)

    acting_as(ALICE, move)
    left = (directory / "old").lstat()
    assert (left.st_uid, left.st_gid, left.st_rdev) == (ALICE.uid, ALICE.gid, 0)


@check
def owners_read_without_a_trace(directory: Path) -> None:
    path = directory / "file"
    path.write_text("x")
    os.chown(path, ALICE.uid, ALICE.gid)
    os.utime(path, ns=(1, 2))

    def read() -> None:
        with opened(path, os.O_RDONLY | os.O_NOATIME) as fd:
            assert os.read(fd, 1) == b"x"

    acting_as(ALICE, read)
    assert path.stat().st_atime_ns == 1
    with fails_with(errno.EPERM):
        acting_as(BOB, read)


@check
def changing_the_owner_clears_set_id_bits(directory: Path) -> None:
    path = _program(directory, "program", 0o6755)
    os.chown(path, BOB.uid, -1)
    assert mode_of(path) == 0o755
    mine = _program(directory, "mine", 0o6755, ALICE.uid)
    acting_as(ALICE, lambda: os.chown(mine, -1, SHARED_GROUP))
    assert mode_of(mine) == 0o755
    shared = directory / "sub"
    shared.mkdir()
    shared.chmod(0o2755)
    os.chown(shared, BOB.uid, BOB.gid)
    assert mode_of(shared) == 0o2755


@check
def setting_set_id_bits(directory: Path) -> None:
    own = _program(directory, "own", 0o755, ALICE.uid)
    acting_as(ALICE, lambda: own.chmod(0o6755))
    assert mode_of(own) == 0o6755  # a member of the group may
    os.chown(own, BOB.uid, SHARED_GROUP)
    acting_as(BOB, lambda: own.chmod(0o6755))
    assert mode_of(own) == 0o4755  # who is none loses the bit
    own.chmod(0o7777)
    assert mode_of(own) == 0o7777


@check
def lists_add_rights(directory: Path) -> None:
    path = directory / "file"
    path.write_text("for bob")
    path.chmod(0o600)
    with fails_with(errno.EACCES):
        acting_as(BOB, path.read_text)
    granted = acl(
        (_USER_OBJ, 6, _NO_ID),
        (_USER, 4, BOB.uid),
        (_GROUP_OBJ, 0, _NO_ID),
        (_MASK, 4, _NO_ID),
        (_OTHER, 0, _NO_ID),
    )
    os.setxattr(path, _ACCESS, granted)
    assert os.getxattr(path, _ACCESS) == granted
    assert _ACCESS in os.listxattr(path)
    assert mode_of(path) == 0o640
    assert acting_as(BOB, path.read_text) == "for bob"
    with fails_with(errno.EACCES):
        acting_as(BOB, lambda: path.write_text("x"))
    with fails_with(errno.EACCES):
        acting_as(ALICE, path.read_text)
    path.chmod(0o600)  # the mask now takes all away
    with fails_with(errno.EACCES):
        acting_as(BOB, path.read_text)
    os.removexattr(path, _ACCESS)
    with fails_with(errno.ENODATA):
        os.getxattr(path, _ACCESS)
    with fails_with(errno.EPERM):
        acting_as(BOB, lambda: os.setxattr(path, _ACCESS, granted))


@check
def lists_of_groups_add_rights(directory: Path) -> None:
    path = directory / "file"
    path.write_text("for the group")
    path.chmod(0o600)
    os.setxattr(
        path,
        _ACCESS,
        acl(
            (_USER_OBJ, 6, _NO_ID),
            (_GROUP_OBJ, 0, _NO_ID),
            (_GROUP, 6, SHARED_GROUP),
            (_MASK, 6, _NO_ID),
            (_OTHER, 0, _NO_ID),
        ),
    )
    assert acting_as(ALICE, path.read_text) == "for the group"
    acting_as(ALICE, lambda: path.write_text("from a member"))
    with fails_with(errno.EACCES):
        acting_as(BOB, path.read_text)


@check
def default_lists_replace_the_umask(directory: Path) -> None:
    open_to_all(directory)
    default = acl(
        (_USER_OBJ, 7, _NO_ID),
        (_USER, 6, BOB.uid),
        (_GROUP_OBJ, 5, _NO_ID),
        (_MASK, 7, _NO_ID),
        (_OTHER, 5, _NO_ID),
    )
    os.setxattr(directory, _DEFAULT, default)

    def make() -> None:
        os.close(os.open(directory / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(directory / "sub", 0o777)
        os.close(os.open(directory / "private", os.O_CREAT | os.O_WRONLY, 0o600))

    acting_as(ALICE, lambda: with_umask(0o077, make))
    assert mode_of(directory / "file") == 0o664
    assert mode_of(directory / "sub") == 0o775
    assert mode_of(directory / "private") == 0o600
    assert os.getxattr(directory / "sub", _DEFAULT) == default
    acting_as(BOB, lambda: (directory / "file").write_text("allowed by the list"))
    with fails_with(errno.EACCES):
        acting_as(BOB, (directory / "private").read_text)
    os.removexattr(directory, _DEFAULT)
    os.close(os.open(directory / "plain", os.O_CREAT | os.O_WRONLY, 0o644))
    with fails_with(errno.ENODATA):
        os.getxattr(directory / "plain", _ACCESS)


@check
def malformed_lists_are_refused(directory: Path) -> None:
    (directory / "file").touch()
    for wrong in (b"", b"xx", struct.pack("<I", 3), acl((_USER_OBJ, 6, _NO_ID))):
        if wrong:
            with fails_with(errno.EINVAL, errno.EOPNOTSUPP):
                os.setxattr(directory / "file", _ACCESS, wrong)
    with fails_with(errno.EACCES, errno.EOPNOTSUPP):
        os.setxattr(
            directory / "file",
            _DEFAULT,
            acl((_USER_OBJ, 6, _NO_ID), (_GROUP_OBJ, 4, _NO_ID), (_OTHER, 0, _NO_ID)),
        )
