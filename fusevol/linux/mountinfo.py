"""/proc/PID/mountinfo, read (proc_pid_mountinfo(5)); touches no mounted file system."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo.

    Attributes:
        device: st_dev of the files on the mount.
        shared: number of the peer group that sees what is mounted on it; 0 for none.
        master: number of the peer group whose mounts show on it; 0 for none.
        parent: id of the mount it is mounted on.
        options: words about this mount, such as "noexec"; `super_options` are those of the file
            system, wherever it is mounted.
    """

    mount_id: int
    device: int
    root: str
    mountpoint: str
    fstype: str
    source: str
    super_options: str
    shared: int = 0
    master: int = 0
    parent: int = 0
    options: frozenset[str] = frozenset()


def _unescape(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda m: bytes([int(m[1], 8)]), field))


def parse(text: bytes) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo file in mount order (a later mount hides an earlier one)."""
    for line in text.splitlines():
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        fstype, source, super_options = right.split(b" ")[:3]
        major, minor = fields[2].split(b":")
        yield Mount(
            mount_id=int(fields[0]),
            device=os.makedev(int(major), int(minor)),
            root=_unescape(fields[3]),
            mountpoint=_unescape(fields[4]),
            fstype=fstype.decode(),
            source=_unescape(source),
            super_options=os.fsdecode(super_options),
            shared=_group(fields, b"shared:"),
            master=_group(fields, b"master:"),
            parent=int(fields[1]),
            options=frozenset(fields[5].decode().split(",")),
        )


def _group(fields: list[bytes], tag: bytes) -> int:
    """Return the number of a peer group from the optional fields; 0 if it is not there."""
    return next((int(f[len(tag) :]) for f in fields[6:] if f.startswith(tag)), 0)


def mounts() -> list[Mount]:
    """Return the mounts of this process's namespace."""
    with open("/proc/self/mountinfo", "rb") as file:
        return list(parse(file.read()))


class MountTable(NamedTuple):
    """The mounts of a mount namespace.

    Attributes:
        namespace: its name, as in /proc/PID/ns.
        pid: one of its processes.
    """

    namespace: str
    pid: int
    mounts: list[Mount]


def mount_tables() -> Iterator[MountTable]:
    """Yield the table of each mount namespace that has a process.

    Namespaces whose processes are not ours to look at are left out.
    """
    seen = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
            if namespace in seen:
                continue
        except OSError:
            continue
        if (table := table_of(int(name))) is not None:
            seen.add(namespace)
            yield MountTable(namespace, int(name), table)


def table_of(pid: int) -> list[Mount] | None:
    """Return the mounts that a process sees, by its own paths; None if that cannot be known."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            return list(parse(file.read()))
    except OSError:
        # It ended, or is ending and has no namespace any more.
        return None


def visible_at(table: list[Mount], path: str) -> Mount | None:
    """Return the mount whose root a path (absolute, resolved) leads to; None if there is none.

    A mount below which something was mounted on one of its parents later is in the table still,
    and no path leads to it.
    """
    children: dict[int, list[Mount]] = {}
    for mount in table:
        children.setdefault(mount.parent, []).append(mount)
    # What the table begins with is mounted on something that is not in it.
    ids = {mount.mount_id for mount in table}
    on = [mount for mount in table if mount.parent not in ids - {mount.mount_id}]
    found = None
    for prefix in _prefixes(path):
        found = None
        while (top := next((m for m in reversed(on) if m.mountpoint == prefix), None)) is not None:
            found = top
            on = [m for m in children.get(top.mount_id, ()) if m.mount_id != top.mount_id]
    return found


def _prefixes(path: str) -> list[str]:
    parts = path.strip("/").split("/") if path != "/" else []
    return ["/", *("/" + "/".join(parts[: count + 1]) for count in range(len(parts)))]


def mount_at(path: str) -> Mount | None:
    """Return the topmost mount whose mount point is exactly `path` (absolute, resolved)."""
    found = [mount for mount in mounts() if mount.mountpoint == path]
    return found[-1] if found else None


def mount_of(fd: int) -> Mount | None:
    """Return the mount that `fd` (O_PATH too) is on; None if it is not in this namespace."""
    wanted = mount_id(fd)
    return next((mount for mount in mounts() if mount.mount_id == wanted), None)


def mount_id(fd: int) -> int:
    """Return the id of the mount that `fd` (O_PATH too) is on (proc_pid_fdinfo(5), Linux 3.15)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return int(next(line for line in file if line.startswith(b"mnt_id:"))[7:])


def mounts_below(top: Mount, path: str) -> list[Mount]:
    """Return what is mounted on `top` below `path`, and what is mounted on that; parents first."""
    on: dict[int, list[Mount]] = {}
    for mount in mounts():
        on.setdefault(mount.parent, []).append(mount)
    found = [mount for mount in on.get(top.mount_id, ()) if is_below(mount.mountpoint, path)]
    for mount in found:
        found += on.get(mount.mount_id, ())
    return found


def is_below(path: str, directory: str) -> bool:
    """Return whether `path` is strictly below `directory`; both absolute and resolved."""
    return path.startswith(directory.rstrip("/") + "/") and path != directory
