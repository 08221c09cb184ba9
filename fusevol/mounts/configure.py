"""The mount that a command line or a line of /etc/fstab asks for."""

import os

from fusevol.errors import UsageError
from fusevol.linux.mountinfo import mount_at
from fusevol.logagent.sinks import parse_all
from fusevol.logagent.sinks.spec import SinkKind
from fusevol.model import OnLogFailure, RecordLevel
from fusevol.mounts import registry
from fusevol.options.config import NO_LOG, STDOUT_LOG, MountConfig, default_log
from fusevol.options.mount_words import Options


def configure(
    source: str, mountpoint: str, options: Options, *, in_background: bool
) -> MountConfig:
    """Return the requested mount, its paths absolute and resolved.

    Args:
        source, mountpoint: as they were written.
        options: what stood after -o, and in options of their own.
        in_background: nobody reads its standard output.

    Raises:
        UsageError: it is not valid.
    """
    if "\0" in source + mountpoint:
        raise UsageError("a path cannot contain a NUL byte")
    mountpoint = _resolved(mountpoint)
    log = options.log or default_log(options.name or mountpoint)
    if log not in (STDOUT_LOG, NO_LOG):
        log = os.path.abspath(log)
    config = MountConfig(
        source=os.path.realpath(source),
        mountpoint=mountpoint,
        name=options.name or mountpoint,
        log=log,
        level=options.record or RecordLevel.ALL,
        deadline=options.deadline or 0.0,
        strict=options.strict,
        on_log_failure=options.on_log_failure or OnLogFailure.CONTINUE,
        flags=options.flags,
        allowed=options.allowed,
        logging=options.logging,
        allow_other=(os.geteuid() == 0 if options.allow_other is None else options.allow_other),
    )
    if in_background:
        _refuse_stdout(config)
    return config


def _refuse_stdout(config: MountConfig) -> None:
    if config.log == STDOUT_LOG:
        raise UsageError(
            "--log - (log=-) writes to stdout, which requires `fusevol mount -f` (stay in the "
            "foreground)"
        )
    if any(sink.target is SinkKind.STDOUT for sink in parse_all(config.logging.sinks)):
        raise UsageError("the sink stdout requires `fusevol mount -f` (stay in the foreground)")


def _resolved(mountpoint: str) -> str:
    """Return the absolute path, and do not ask a mount of ours there: nobody may serve it now."""
    path = registry.resolved(mountpoint)
    mount = mount_at(path)
    if mount is not None and mount.fstype == registry.FSTYPE:
        return path
    return os.path.realpath(mountpoint)
