"""What is wrong with a mount before it is made: each finding is one clear error."""

import enum
import errno
import os
import stat
import subprocess
import sys
from typing import Final

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.linux.mountinfo import Mount, is_below, mount_at, mounts
from fusevol.logagent import sinks
from fusevol.mounts import registry
from fusevol.mounts.log_checks import check_log_options
from fusevol.mounts.mounting import unmount
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.record.bounds import LONGEST_VOLUME_BYTES

_ANSWER_S: Final = 2.0
"""How long a mount may take to answer; one that is dead says so at once."""
_DEAD: Final = 3
_ASK: Final = f"""\
import errno, os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit({_DEAD} if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else 0)
"""


def check(config: MountConfig) -> None:
    """Check source, mount point and log against each other and the host.

    Raises:
        UsageError, NotFoundError, NotPermittedError, FusevolError: what is wrong.
    """
    check_log_options(config.logging, config.log, config.on_log_failure)
    _check_name(config.name)
    source = check_source(config.served_path)
    _check_overlap(config)
    _check_mountpoint(config, source)
    _check_log(config)
    _check_sinks(config)


def _check_name(name: str) -> None:
    length = len(os.fsencode(name))
    if length > LONGEST_VOLUME_BYTES:
        raise UsageError(
            f"the name of the volume, {name[:40]}..., has {length} bytes and stands in each "
            f"record; give one of at most {LONGEST_VOLUME_BYTES} by --name"
        )


def check_source(source: str) -> os.stat_result:
    """Return the status of a directory or file that can be served.

    Raises:
        UsageError, NotFoundError, NotPermittedError, FusevolError: why it cannot.
    """
    try:
        status = os.stat(source)
    except FileNotFoundError:
        raise NotFoundError(f"source {source} does not exist; create it first") from None
    except PermissionError:
        raise NotPermittedError(f"source {source}: permission denied") from None
    except OSError as error:
        raise FusevolError(f"source {source} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise UsageError(f"source {source} is neither a directory nor a regular file")
    wanted = os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)
    if not os.access(source, wanted, effective_ids=True):
        raise NotPermittedError(f"source {source} is not readable for you")
    return status


def _check_overlap(config: MountConfig) -> None:
    source, mountpoint = config.source, config.mountpoint
    if is_below(mountpoint, source):
        raise UsageError(
            f"mount point {mountpoint} is below the source {source}; choose one outside of it"
        )
    if is_below(source, mountpoint):
        raise UsageError(
            f"mount point {mountpoint} contains the source {source} and would hide it; "
            f"choose another"
        )


def check_unserved(mountpoint: str) -> None:
    """Raise UsageError or FusevolError if a mount of ours is there, be it a dead one."""
    mount = mount_at(mountpoint)
    if mount is not None and mount.fstype == registry.FSTYPE:
        raise _occupied(mountpoint, mount)


def _check_mountpoint(config: MountConfig, source: os.stat_result) -> None:
    mountpoint = config.mountpoint
    check_unserved(mountpoint)
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError:
        raise NotFoundError(f"mount point {mountpoint} does not exist; create it first") from None
    except PermissionError:
        raise NotPermittedError(f"mount point {mountpoint}: permission denied") from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise FusevolError(
                f"mount point {mountpoint} holds a dead mount of another program; "
                f"remove it with umount -l {mountpoint}"
            ) from None
        raise FusevolError(f"mount point {mountpoint} cannot be used: {error.strerror}") from None
    if stat.S_ISDIR(source.st_mode) != stat.S_ISDIR(status.st_mode):
        raise UsageError(
            f"source {config.source} is {_kind(source)}, mount point {mountpoint} is "
            f"{_kind(status)}; both must be of one kind"
        )


def _kind(status: os.stat_result) -> str:
    return "a directory" if stat.S_ISDIR(status.st_mode) else "a file"


def _occupied(mountpoint: str, mount: Mount) -> FusevolError:
    if answer(mountpoint) is Liveness.DEAD:
        return FusevolError(
            f"mount point {mountpoint} holds a dead fusevol mount, left by a crash; "
            f"remove it with: fusevol unmount {mountpoint}"
        )
    return UsageError(f"{mountpoint} is already served by fusevol (source {mount.source})")


class Liveness(enum.Enum):
    """What a FUSE mount says when it is asked."""

    LIVE = "live"
    DEAD = "dead"
    """Nobody serves it any more."""
    NONE = "none"
    """It does not answer in time: its source hangs, or its worker was stopped."""


def answer(mountpoint: str) -> Liveness:
    """Ask the FUSE mount at `mountpoint`, for some seconds at most.

    A connection without a server answers at once with ENOTCONN (fs/fuse/dev.c). One whose server
    hangs does not answer, and who asks cannot always be killed; so another process asks.
    """
    asking = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK, mountpoint],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        return Liveness.DEAD if asking.wait(_ANSWER_S) == _DEAD else Liveness.LIVE
    except subprocess.TimeoutExpired:
        asking.kill()
        return Liveness.NONE


def _check_log(config: MountConfig) -> None:
    if config.log in (STDOUT_LOG, NO_LOG):
        return
    real = os.path.join(os.path.realpath(os.path.dirname(config.log)), os.path.basename(config.log))
    for place, why in ((config.mountpoint, "mount point"), (config.source, "source")):
        if is_below(real, place):
            raise UsageError(
                f"access log {config.log} is below the {why} {place}, where it would log its own "
                f"writing or be open to those who are logged; choose a place outside"
            )
    if os.path.isdir(real):
        raise UsageError(f"access log {config.log} is a directory; give a file")
    for mount in mounts():
        if mount.fstype == registry.FSTYPE and is_below(real, mount.mountpoint):
            raise UsageError(
                f"access log {config.log} is on the fusevol mount {mount.mountpoint}; "
                f"choose a place on the host"
            )


def _check_sinks(config: MountConfig) -> None:
    for spec in sinks.parse_all(config.logging.sinks):
        for place, why in ((config.mountpoint, "mount point"), (config.source, "source")):
            if spec.path and is_below(os.path.realpath(spec.path), place):
                raise UsageError(
                    f"socket {spec.path} of sink {spec.target} is below the {why} {place}, where "
                    f"those who are logged could take its place; choose one outside"
                )


def remove_dead(mountpoint: str) -> None:
    """Remove a dead mount of ours."""
    unmount(mountpoint, lazily=True)
    registry.remove(mountpoint)
