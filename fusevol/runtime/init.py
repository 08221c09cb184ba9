"""The first process of a container, from its fork to the command."""

import fcntl
import os
import signal
import socket
import struct
from typing import Final, Never

import msgspec

from fusevol.binding.bind import open_destination
from fusevol.errors import FusevolError
from fusevol.linux import credentials, mounts, namespaces
from fusevol.linux.process import die_with_parent
from fusevol.runtime.root import Bind, enter, fill, mount_overlay, protect
from fusevol.runtime.user import find_user

CAPABILITIES: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27,
    "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip
"""What root in a container has (moby, oci/caps/defaults.go); numbers of linux/capability.h."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = struct.Struct("16sh14x")


class Plan(msgspec.Struct):
    """What a container is made of.

    Attributes:
        command: what to run; at least one word.
        environment: NAME=VALUE; what comes later counts.
        user: `USER[:GROUP]`; empty is root.
        lowers, upper, work, merged: of the overlay (`runtime.root`).
        own_network: it has only a loopback device; else it shares the host's network.
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


def run(plan: Plan, binds: list[Bind], go: int, errors: int) -> Never:
    """Become the container's command. Called in a new process, the first of its pid namespace.

    Args:
        plan: what to do.
        binds: volumes.
        go: pipe that tells, by one byte, that this process is in its control group. Its end tells
            that the monitor is gone.
        errors: pipe that gets what went wrong before the command began; closed by its start.
    """
    status = 1
    try:
        die_with_parent(signal.SIGKILL)
        # Who shares a controlling terminal can type into it (TIOCSTI), outside of the container.
        os.setsid()
        _keep_descriptors_back()
        if not os.read(go, 1):
            os._exit(status)
        status = _execute(plan, _make(plan, binds))
    except FusevolError as error:
        _say(errors, str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _say(errors, f"the container cannot be made: {where}{error.strerror}")
    except BaseException as error:
        _say(errors, f"the container cannot be made: {error!r}")
    os._exit(status)


def _make(plan: Plan, binds: list[Bind]) -> int:
    """Make the container; return a descriptor of the directory that the command starts in."""
    kinds = (
        namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC
        | namespaces.CLONE_NEWCGROUP
    )  # fmt: skip
    namespaces.unshare(kinds | (namespaces.CLONE_NEWNET if plan.own_network else 0))
    mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE, "")
    namespaces.set_host_name(plan.host_name)
    if plan.own_network:
        _bring_loopback_up()
    mount_overlay(plan.lowers, plan.upper, plan.work, plan.merged)
    root_fd = os.open(plan.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fill(root_fd, binds)
    if plan.directory == "/":
        directory = os.dup(root_fd)
    else:
        # As with other engines it is made if it is missing.
        directory = open_destination(root_fd, plan.directory, False, [])
    enter(root_fd)
    os.close(root_fd)
    protect()
    return directory


def _execute(plan: Plan, directory: int) -> int:
    """Execute the command; return the exit status to end with if that cannot be done."""
    user = find_user(plan.user)
    environment = {"PATH": _PATH, "HOME": user.home, "HOSTNAME": plan.host_name}
    if os.isatty(0) and "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    for word in plan.environment:
        name, _, value = word.partition("=")
        if name:
            environment[name] = value
    credentials.no_new_privileges()
    credentials.limit_capabilities(CAPABILITIES.values())
    credentials.become(user.uid, user.gid, user.groups)
    # Cleared by the change of identity.
    die_with_parent(signal.SIGKILL)
    try:
        # Not by its path: a volume may hold links that lead elsewhere by now.
        os.fchdir(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, plan.directory) from None
    _reset_signals()
    os.umask(0o022)
    return _exec(plan.command, environment)


def _exec(command: list[str], environment: dict[str, str]) -> int:
    program = command[0]
    if "/" in program:
        places = [program]
    else:
        places = [f"{d or '.'}/{program}" for d in environment["PATH"].split(":")]
    status, why = _NOT_FOUND, "not found"
    for place in places:
        try:
            os.execve(place, command, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            status, why = _NOT_EXECUTABLE, error.strerror or str(error)
    os.write(2, f"fusevol: {program}: {why} in the container\n".encode(errors="surrogateescape"))
    return status


def _reset_signals() -> None:
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _bring_loopback_up() -> None:
    """Set IFF_UP on the loopback device (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = _IFREQ.pack(b"lo", 0)
        _name, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


def _keep_descriptors_back() -> None:
    """Let the command inherit its standard files only, whatever we were started with."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue


def _say(errors: int, text: str) -> None:
    os.write(errors, text.encode(errors="surrogateescape")[:4096])
