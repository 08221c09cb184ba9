"""What a program asked the kernel for, as strace(1) saw it, held against what the log says.

Calls and records are compared process by process, in order. A call on the volume must have its
record; a record must have its call, apart from what the kernel asks for on its own on the way
(`_ON_THE_WAY`).
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fusevol.names import decode_name
from tests.patience import PATIENCE_S
from tests.served import Record

_ON_THE_WAY: Final = {
    "lookup", "getattr", "getxattr", "readlink", "statfs", "release", "releasedir", "flush",
}  # fmt: skip
"""The kernel resolves paths, asks for attributes and ACLs, and releases at a time of its own."""

_SAME_NAME: Final = {
    "mkdir": "mkdir", "mkdirat": "mkdir", "rmdir": "rmdir", "unlink": "unlink",
    "symlink": "symlink", "symlinkat": "symlink", "link": "link", "linkat": "link",
    "rename": "rename", "renameat": "rename", "renameat2": "rename", "mknod": "mknod",
    "mknodat": "mknod", "readlink": "readlink", "readlinkat": "readlink",
    "chmod": "setattr", "fchmod": "setattr", "fchmodat": "setattr", "fchmodat2": "setattr",
    "chown": "setattr", "lchown": "setattr", "fchown": "setattr", "fchownat": "setattr",
    "truncate": "setattr", "ftruncate": "setattr", "utimensat": "setattr",
    "setxattr": "setxattr", "lsetxattr": "setxattr", "fsetxattr": "setxattr",
    "getxattr": "getxattr", "lgetxattr": "getxattr", "fgetxattr": "getxattr",
    "listxattr": "listxattr", "llistxattr": "listxattr", "flistxattr": "listxattr",
    "removexattr": "removexattr", "fsync": "fsync", "fdatasync": "fsync", "statfs": "statfs",
    "getdents64": "readdir", "close": "flush",
}  # fmt: skip
_TWO_PATHS: Final = {"link", "rename"}
_BYTES: Final = {
    "read": "read", "pread64": "read", "readv": "read", "preadv": "read", "write": "write",
    "pwrite64": "write", "writev": "write", "pwritev": "write", "copy_file_range": "write",
}  # fmt: skip
_STATS: Final = {"stat", "lstat", "fstat", "newfstatat", "statx"}
_REFUSED_BY_LOOKUP: Final = {"ENOENT", "EEXIST", "EISDIR", "ENOTDIR", "ELOOP"}
"""The kernel refuses the call after it looked the name up, without asking further."""

_LINE: Final = re.compile(
    r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<((?:\\x..|[^>])*)>)?(?: (E[A-Z0-9]+))?"
)
_UNFINISHED: Final = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_STRING: Final = re.compile(r'(?:(AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, )?"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR: Final = re.compile(r"\b\d+<((?:\\x[0-9a-f]{2})*)>")


@dataclass
class Call:
    """A system call. `paths` are the absolute ones it names, by string or by descriptor."""

    pid: int
    name: str
    arguments: str
    result: int
    error: str | None
    paths: list[bytes]


def trace(command: list[str | Path], output: Path, cwd: Path) -> list[Call]:
    """Run a command under strace and return the file system calls of all its processes."""
    done = subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "4096", "-e", "trace=file,desc", "-e", "signal=none",
         "-o", output, *command],
        cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(_calls(output.read_text()))


def _calls(text: str) -> "list[Call]":
    begun: dict[str, str] = {}
    found = []
    for whole in text.splitlines():
        line = whole
        if unfinished := _UNFINISHED.match(line):
            begun[unfinished[1]] = line.removesuffix(" <unfinished ...>")
            continue
        if resumed := _RESUMED.match(line):
            line = begun.pop(resumed[1]) + resumed[2]
        matched = _LINE.match(line)
        if matched and matched[4] != "?":
            pid, name, arguments, result, opened, error = matched.groups()
            # What was opened is known for certain; the path may lead over symbolic links.
            paths = _paths(name, arguments) if opened is None else [_raw(opened)]
            found.append(Call(int(pid), name, arguments, int(result), error, paths))
    return found


def _raw(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _paths(name: str, arguments: str) -> list[bytes]:
    if (
        name in _BYTES
        or name in ("getdents64", "close", "fstat", "lseek")
        or (name.startswith("f") and not name.endswith(("at", "at2")))
    ):
        return [_raw(fd[1]) for fd in _DESCRIPTOR.finditer(arguments)]
    strings = list(_STRING.finditer(arguments))
    if name.startswith("symlink"):
        strings = strings[1:]
    if name.endswith("xattr"):
        strings = strings[:1]
    paths = []
    for found in strings:
        path = _raw(found[3])
        if not path.startswith(b"/"):
            base = _raw(found[2]) if found[2] is not None else b"."
            path = base + b"/" + path if path else base
        paths.append(path)
    if not paths:
        paths = [_raw(fd[1]) for fd in _DESCRIPTOR.finditer(arguments)]
    return paths


def _parents(path: bytes) -> list[bytes]:
    parents = []
    while path != b"/":
        path = os.path.dirname(path)
        parents.append(path)
    return parents


class Comparison:
    """Holds the calls of one process against its records."""

    def __init__(
        self, mountpoint: Path, cwd: Path, records: list[Record], *, strict: bool = True
    ) -> None:
        """Begin with the first record.

        Args:
            strict: each look at the attributes of a directory is recorded.
        """
        self._strict = strict
        self._root = bytes(mountpoint)
        self._cwd = bytes(cwd)
        self._records = records
        self._position = 0
        self.matched = 0

    def inside(self, path: bytes) -> bytes | None:
        """Return the path within the volume, None if it is elsewhere."""
        if path.startswith((b"pipe:[", b"socket:[", b"anon_inode:")):
            return None
        path = os.path.normpath(os.path.join(self._cwd, path.removesuffix(b"(deleted)")))
        if path == self._root:
            return b"/"
        return path.removeprefix(self._root) if path.startswith(self._root + b"/") else None

    def hold(self, call: Call) -> None:
        """Find the record of `call`."""
        if call.name in ("chdir", "fchdir"):
            self._cwd = os.path.join(self._cwd, call.paths[0])
        paths = [inside for path in call.paths if (inside := self.inside(path)) is not None]
        if not paths or (len(paths) < len(call.paths) and call.name != "copy_file_range"):
            return
        if call.name in _STATS:
            answered_by_kernel = not self._strict and "S_IFDIR" in call.arguments
            self._find({"getattr", "lookup"}, paths[0], call, None, answered_by_kernel)
        elif call.error == "EINVAL" and call.name in ("readlink", "readlinkat"):
            self._find({"lookup"}, paths[0], call, "ok")
        elif call.error in _REFUSED_BY_LOOKUP:
            self._refused(call, paths)
        elif call.name in ("open", "openat", "creat"):
            self._opened(call, paths[0])
        elif call.name in _BYTES:
            self._moved(call, paths)
        elif call.name == "unlinkat":
            op = "rmdir" if "AT_REMOVEDIR" in call.arguments else "unlink"
            self._find({op}, paths[0], call, call.error or "ok")
        elif call.name in _SAME_NAME:
            self._named(call, paths)

    def finish(self) -> None:
        """Check that no record is left that no call asked for."""
        while self._position < len(self._records):
            self._skip(self._records[self._position], "the end")
            self._position += 1

    def _named(self, call: Call, paths: list[bytes]) -> None:
        op = _SAME_NAME[call.name]
        if op == "flush" and "O_DIRECTORY" in call.arguments:
            return
        optional = op in ("flush", "getxattr")
        record = self._find({op}, paths[0], call, call.error or "ok", optional)
        if record is not None and op in _TWO_PATHS:
            assert decode_name(record["to"]) == paths[1], (call, record)

    def _refused(self, call: Call, paths: list[bytes]) -> None:
        if call.error == "EEXIST":
            self._find({"lookup"}, paths[-1], call, "ok")
        elif call.error == "ENOENT":
            for path in paths:
                for missing in (path, *_parents(path)):
                    if self._find({"lookup"}, missing, call, "ENOENT", optional=True):
                        return
            raise AssertionError(f"no failed lookup for {call}")

    def _opened(self, call: Call, path: bytes) -> None:
        if call.error == "EACCES" or "O_PATH" in call.arguments:
            return
        ops = {"create", "open"} if "O_CREAT" in call.arguments else {"open"}
        if "O_DIRECTORY" in call.arguments:
            ops = {"opendir"}
        elif "O_CREAT" not in call.arguments:
            ops.add("opendir")
        record = self._find(ops, path, call, call.error or "ok")
        assert record is not None
        for flag in ("O_WRONLY", "O_RDWR", "O_APPEND", "O_TRUNC"):
            if record["op"] != "opendir":
                expected = flag in call.arguments
                assert (flag in record["flags"].split("|")) == expected, (call, record)

    def _moved(self, call: Call, paths: list[bytes]) -> None:
        op, path = _BYTES[call.name], paths[-1]
        if call.name == "copy_file_range":
            assert call.error is None
            self._copied(call, paths)
            return
        done = 0
        explicit = re.search(r", (\d+)$", call.arguments) if call.name.startswith("p") else None
        offset = int(explicit[1]) if explicit else None
        while True:
            record = self._find({op}, path, call, call.error or "ok")
            assert record is not None
            if offset is not None:
                assert record["offset"] == offset + done, (call, record)
            done += record["bytes_read" if op == "read" else "bytes_written"]
            if done >= call.result:
                break
        assert done == call.result, call

    def _copied(self, call: Call, paths: list[bytes]) -> None:
        """The kernel turns this into reads and writes, of a size that it chooses."""
        done = 0
        while done < call.result:
            record = self._records[self._position]
            assert record["op"] in ("read", "write", *_ON_THE_WAY), (call, record)
            if record["op"] == "write":
                done += record["bytes_written"]
            self._position += 1
        while self._position < len(self._records) and self._records[self._position]["op"] == "read":
            self._position += 1
        self.matched += 1
        assert done == call.result, (call, paths)

    def _find(
        self, ops: set[str], path: bytes, call: Call, result: str | None, optional: bool = False
    ) -> Record | None:
        start = self._position
        for position in range(start, len(self._records)):
            record = self._records[position]
            if (
                record["op"] in ops
                and decode_name(record["path"]) == path
                and (result is None or record["result"] == result)
            ):
                self._position = position + 1
                self.matched += 1
                return record
            if optional and record["op"] not in _ON_THE_WAY:
                return None
            self._skip(record, call)
        if optional:
            return None
        raise AssertionError(f"no record of {call}, {ops} {path!r} {result}")

    def _skip(self, record: Record, call: object) -> None:
        unasked = record["op"] not in _ON_THE_WAY
        assert not unasked, f"before {call}: a record that no call asked for: {record}"
