"""Whom what is made for a volume inside a container has to belong to (user_namespaces(7))."""

from fusevol.linux.namespaces import id_map, namespace_id


def host_id_of_root(pid: int, kind: str) -> int:
    """Return the id that the root user or group of a process's user namespace has in this one.

    What is made for a mount shall belong to it, and the kernel makes nothing on a file system of
    the container's that belongs to nobody in there.

    Args:
        pid: a process of the container.
        kind: "uid" or "gid".
    """
    try:
        if namespace_id(pid, "user") == namespace_id("self", "user"):
            # Its map would say who root is one namespace further up.
            return 0
        for inside, outside, _count in id_map(pid, kind):
            if inside == 0:
                return outside
    except OSError:
        # It has ended: entering it will report that.
        return 0
    return 0
