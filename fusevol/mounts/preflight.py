"""What is wrong with a mount before it is made: each finding is one clear error."""

import errno
import os
import stat

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.linux.mountinfo import Mount, is_below, mount_at, mounts
from fusevol.logagent import retention, sinks
from fusevol.model import OnLogFailure
from fusevol.mounts import registry
from fusevol.mounts.liveness import Liveness, answer
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig
from fusevol.options.log import Compression, LogOptions
from fusevol.proof import keys
from fusevol.record.bounds import LONGEST_VOLUME_BYTES
from fusevol.recording import record_filter


def check(config: MountConfig, *, is_name_shared: bool = False) -> None:
    """Check the options, then source, mount point and log against each other and the host.

    Every way of mounting comes through here, and gets the first finding.

    Args:
        is_name_shared: other mounts may have the same name; their records and metrics are mixed.

    Raises:
        UsageError, NotFoundError, NotPermittedError, UnsupportedError, FusevolError: what is wrong.
    """
    check_options(config.logging, config.log, config.on_log_failure)
    _check_name(config, is_name_shared)
    source = check_source(config.served_path)
    _check_overlap(config)
    _check_mountpoint(config, source)
    _check_log(config)
    _check_sinks(config)


def check_options(options: LogOptions, log: str, on_log_failure: OnLogFailure) -> None:
    """Check what can be known of a log before there is a mount.

    Args:
        options: of the log.
        log: a file, "-", "none", or empty for a file of fusevol's choice.
        on_log_failure: the policy.

    Raises:
        UsageError: the options make no sense, and why.
        UnsupportedError: a package is missing, and which.
        FusevolError: the key of the chain cannot be used.
    """
    options.check(log)
    record_filter.check(options, on_log_failure)
    sinks.parse_all(options.sinks)
    if options.chain:
        keys.check_usable()
    if options.compress is Compression.ZSTD:
        retention.compressor()


def _check_name(config: MountConfig, is_shared: bool) -> None:
    name = config.name
    length = len(os.fsencode(name))
    if length > LONGEST_VOLUME_BYTES:
        raise UsageError(
            f"the volume name {name[:40]}... has {length} bytes, too many for a part of each "
            f"record; set one of at most {LONGEST_VOLUME_BYTES} bytes with --name"
        )
    for other in registry.all_served() if not is_shared else ():
        if other.name == name and other.mountpoint != config.mountpoint:
            raise UsageError(
                f"name {name} is already used by the mount at {other.mountpoint}; choose another "
                f"with --name"
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
        raise NotPermittedError(f"source {source} is not readable by you")
    return status


def _check_overlap(config: MountConfig) -> None:
    source, mountpoint = config.source, config.mountpoint
    if is_below(mountpoint, source):
        raise UsageError(
            f"mount point {mountpoint} is below the source {source}; choose one outside it"
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
                f"mount point {mountpoint} has a dead mount of another program; "
                f"remove it with umount -l {mountpoint}"
            ) from None
        raise FusevolError(f"mount point {mountpoint} cannot be used: {error.strerror}") from None
    if stat.S_ISDIR(source.st_mode) != stat.S_ISDIR(status.st_mode):
        raise UsageError(
            f"source {config.source} is {_kind(source)}, mount point {mountpoint} is "
            f"{_kind(status)}; both must be of the same kind"
        )


def _kind(status: os.stat_result) -> str:
    return "a directory" if stat.S_ISDIR(status.st_mode) else "a file"


def _occupied(mountpoint: str, mount: Mount) -> FusevolError:
    if answer(mountpoint) is Liveness.DEAD:
        return FusevolError(
            f"mount point {mountpoint} has a dead fusevol mount, left by a crash; remove it with: "
            f"fusevol unmount {mountpoint}"
        )
    return UsageError(f"{mountpoint} is already a fusevol mount (source {mount.source})")


def _check_log(config: MountConfig) -> None:
    if config.log in (STDOUT_LOG, NO_LOG):
        return
    real = os.path.join(os.path.realpath(os.path.dirname(config.log)), os.path.basename(config.log))
    for place, why in ((config.mountpoint, "mount point"), (config.source, "source")):
        if is_below(real, place):
            raise UsageError(
                f"access log {config.log} is below the {why} {place}, where it would record its "
                f"own writes or be open to the users it records; choose a place outside"
            )
    if os.path.isdir(real):
        raise UsageError(f"access log {config.log} is a directory; use a file")
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
                    f"users of the volume could replace it; choose one outside"
                )
