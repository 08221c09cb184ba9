r"""Which container a process belongs to, read from the text of /proc/PID/cgroup (cgroups(7)).

An engine puts each container into a control group of its own and names that group after the
container. The shapes here are those of Docker, Podman, containerd, CRI-O, Kubernetes, nerdctl,
BuildKit, systemd-nspawn, LXC and libvirt-lxc. Not recognised: names that follow no rule
(`ctr run`, runc with a path of one's own).

Paths are relative to the cgroup namespace of whoever reads the file: a reader that runs inside a
container sees its own container as "/" and others behind "/..".

Pure functions, usable from any thread.
"""

import os
import re
from collections.abc import Iterator
from typing import Final

from fusevol.names import encode_name

_NO_POD: Final = r"(?<!/libpod_parent/.{64})(?!/libpod-|/conmon(?:/|$))"
"""Podman with cgroupfs has a directory per pod, too, named after the pod's id."""

_SHAPES: Final = tuple(
    re.compile(shape + r"(?=/|$)")
    for shape in (
        # Docker, Podman, containerd, CRI-O, nerdctl: ID, docker-ID.scope, libpod-ID,
        # kubepods-...slice:cri-containerd:ID. The monitor (libpod-conmon-ID.scope) is not part of
        # the container, nor is a unit that merely mentions it (ID.service runs health checks).
        rf"(?:[^/]*(?<!conmon)[-:])?([0-9a-f]{{64}})(?:\.scope)?{_NO_POD}",
        # A build step; BuildKit's ids are shorter.
        r"buildkit[-/]([0-9a-z]{25})(?:\.scope)?",
        # nspawn itself waits in the sub-group "supervisor".
        r"systemd-nspawn@([^/]+)\.service(?!/supervisor)",
        # systemd-machined registers containers and virtual machines alike.
        r"machine-(?!qemu\\x2d)(?:lxc\\x2d\d+\\x2d)?([^/]+)\.scope(?!/supervisor)",
        r"(?:lxc-\d+-)?([^/]+)\.libvirt-lxc",
        r"lxc(?:\.payload)?/([^/]+)",
        r"lxc\.payload\.([^/]+)",
    )
)
"""What follows a slash in the path of a container's control group; group 1 is id or name."""

_HIERARCHIES: Final = ("", "name=systemd", "cpu", "memory")
"""Where to look first, by controller; "" is the unified hierarchy (cgroup v2)."""

_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")


def container_id(cgroup: str) -> str | None:
    """Return the container of a process: its full id, its name with engines that have no ids.

    With an engine inside a container, the outermost container counts: it is the one that the host
    knows, and processes inside cannot choose its name.

    Args:
        cgroup: text of /proc/PID/cgroup, of cgroup v1, v2 or both; as os.fsdecode makes it.

    Returns:
        Text in the encoding of `fusevol.names`; None for a process of the host.
    """
    for path in _paths(cgroup):
        name = _outermost(path)
        if name is not None:
            return name
    return None


def _paths(cgroup: str) -> Iterator[str]:
    """Yield the paths of the process's control groups, the most telling hierarchy first."""
    paths = {}
    for line in cgroup.splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # The kernel marks the group of a zombie that outlived its group.
        path = path.removesuffix(" (deleted)")
        for controller in controllers.split(","):
            paths[controller] = path
    for controller in (*_HIERARCHIES, *paths):
        if controller in paths:
            yield paths[controller]


def _outermost(path: str) -> str | None:
    for slash in re.finditer("/", path):
        for shape in _SHAPES:
            if found := shape.match(path, slash.end()):
                return _unescape(found[1])
    return None


def _unescape(name: str) -> str:
    r"""Undo systemd's escapes for unit names (systemd-escape(1)): `a\x2db` means `a-b`."""
    return encode_name(_ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), os.fsencode(name)))
