"""What a container is made of, in the words of the OCI runtime specification (config.json).

Pure: nothing is mounted or started here. What root in a container may do, and what of /proc and
/sys is kept from it, is as Docker has it (moby, oci/defaults.go and oci/caps/defaults.go).
"""

from typing import Any, Final

import msgspec

from fusevol.containers.ids import IdRange
from fusevol.runtime.limits import Limits
from fusevol.runtime.user import ContainerUser

CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT",
    "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
)  # fmt: skip

_VERSION: Final = "1.0.2"
"""Of the specification; the oldest that has all we need."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UMASK: Final = 0o022

_MASKED: Final = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
_READ_ONLY: Final = (
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
)  # fmt: skip
_NO_FILES: Final = ("nosuid", "noexec", "nodev")


class Plan(msgspec.Struct):
    """What a container is made of.

    Attributes:
        command: what to run; at least one word.
        environment: NAME=VALUE; what comes later counts.
        directory: that the command starts in.
        user: `USER[:GROUP]`; empty is root.
        lowers, upper, work, merged: of the overlay (`runtime.root`).
        own_network: it has only a loopback device; else it shares the host's network.
        interactive: the caller's standard input is the command's; else it has none.
        terminal: the command has a terminal.
        ids: the host's ids of the container's users; None if they are those of the host.
        seccomp: profile in the form of config.json; None for no filter.
    """

    command: list[str]
    environment: list[str]
    directory: str
    user: str
    host_name: str
    lowers: list[str]
    upper: str
    work: str
    merged: str
    own_network: bool
    interactive: bool
    terminal: bool
    limits: Limits
    ids: IdRange | None
    seccomp: dict[str, Any] | None


class Hook(msgspec.Struct):
    """A program that the runtime calls while it creates the container.

    Attributes:
        stage: `createContainer` or `createRuntime`.
    """

    stage: str
    words: list[str]
    environment: list[str]


def config(plan: Plan, container_id: str, user: ContainerUser, hook: Hook | None) -> dict[str, Any]:
    """Return the content of config.json (runtime-spec, config.md and config-linux.md)."""
    return {
        "ociVersion": _VERSION,
        "process": _process(plan, user),
        "root": {"path": plan.merged, "readonly": False},
        "hostname": plan.host_name,
        "mounts": _mounts(),
        "hooks": _hooks(hook),
        "linux": _linux(plan, container_id),
    }


def _process(plan: Plan, user: ContainerUser) -> dict[str, Any]:
    held = list(CAPABILITIES)
    return {
        "terminal": plan.terminal,
        "user": {
            "uid": user.uid, "gid": user.gid, "additionalGids": user.groups, "umask": _UMASK,
        },
        "args": plan.command,
        "env": _environment(plan, user),
        "cwd": plan.directory,
        # Another user loses what is permitted by the execution of the command.
        "capabilities": {"bounding": held, "effective": held, "permitted": held},
        "noNewPrivileges": True,
    }  # fmt: skip


def _environment(plan: Plan, user: ContainerUser) -> list[str]:
    found = {"PATH": _PATH, "HOME": user.home, "HOSTNAME": plan.host_name}
    if plan.terminal:
        found["TERM"] = "xterm"
    for word in plan.environment:
        name, _, value = word.partition("=")
        if name:
            found[name] = value
    return [f"{name}={value}" for name, value in found.items()]


def _mounts() -> list[dict[str, Any]]:
    # No device node of the container's can be opened: /dev, where they can be, is read-only.
    return [
        _mount("/proc", "proc", *_NO_FILES),
        _mount("/sys", "sysfs", *_NO_FILES, "ro"),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "ro", "mode=755", "size=64k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666",
               "mode=0620", "gid=5"),
        _mount("/dev/shm", "tmpfs", *_NO_FILES, "mode=1777", "size=64m"),
        _mount("/dev/mqueue", "mqueue", *_NO_FILES),
    ]  # fmt: skip


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination, "type": kind, "source": kind, "options": options,
    }  # fmt: skip


def _hooks(hook: Hook | None) -> dict[str, Any]:
    if hook is None:
        return {}
    return {
        hook.stage: [{"path": hook.words[0], "args": hook.words, "env": hook.environment}]
    }  # fmt: skip


def _linux(plan: Plan, container_id: str) -> dict[str, Any]:
    kinds = ["mount", "pid", "uts", "ipc", "cgroup", *(["network"] if plan.own_network else [])]
    found: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        # The id in the path tells its processes from those of others (containers.cgroup).
        "cgroupsPath": f"/fusevol/{container_id}",
        "resources": {"devices": [{"allow": False, "access": "rwm"}], **plan.limits.resources()},
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if plan.ids is not None:
        found["namespaces"].append({"type": "user"})
        for kind, first in (("uid", plan.ids.first_uid), ("gid", plan.ids.first_gid)):
            found[f"{kind}Mappings"] = [{"containerID": 0, "hostID": first, "size": plan.ids.size}]
    if plan.seccomp is not None:
        found["seccomp"] = plan.seccomp
    return found
