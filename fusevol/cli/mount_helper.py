"""`mount.fusevol`: what mount(8) runs for the type fusevol, also from /etc/fstab.

    mount -t fusevol /srv/data /mnt/data -o log=/var/log/data.log,record=data
    /srv/data  /mnt/data  fusevol  log=/var/log/data.log,nofail  0  0

mount(8) looks for it in /sbin, so it needs a link there:

    ln -s "$(command -v mount.fusevol)" /sbin/mount.fusevol

The type fuse.fusevol, which mount.fuse3(8) handles, needs no link. It needs `fusevol` in
/usr/local/bin or /usr/bin, and adds suid and dev unless nosuid and nodev are given.

Exit status, as in mount(8): 0 mounted, 1 incorrect usage, 8 interrupted, 32 mount failure.
"""

import getopt
import sys
from typing import Final, NoReturn

import click

from fusevol.cli.mount import serve
from fusevol.errors import EXIT_MOUNT_FAILURE, FusevolError, MountError, UsageError
from fusevol.mounts.configure import configure
from fusevol.mounts.preflight import check
from fusevol.options.mount_words import Options, parse_options, split_options
from fusevol.terminal import printable

_EXIT_USAGE: Final = 1
_EXIT_INTERRUPTED: Final = 8

USAGE: Final = "usage: mount.fusevol SOURCE MOUNTPOINT [-sfnv] [-o OPT[,OPT...]] [-t TYPE]"

SWITCHES: Final = (
    ("-o OPT[,OPT...]", "Mount options: those of `fusevol mount -o` and of mount(8)."),
    ("-s", "Ignore unknown mount options."),
    ("-f", "Check everything, but do not mount."),
    ("-v", "Print what is mounted where."),
    ("-n, -t TYPE", "Ignored."),
    ("-N NAMESPACE", "Not supported; use nsenter --mount=NAMESPACE mount -t fusevol ..."),
)

_FOR_MOUNT: Final = frozenset(("user", "uhelper", "comment"))
"""Keys of options with a value that mount(8) writes or keeps for itself."""


def main() -> NoReturn:
    """Entry point of the `mount.fusevol` command."""
    try:
        _run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    except FusevolError as error:
        click.echo(f"mount.fusevol: {printable(str(error))}", err=True)
        sys.exit(_EXIT_USAGE if isinstance(error, UsageError) else EXIT_MOUNT_FAILURE)
    except OSError as error:
        click.echo(f"mount.fusevol: {printable(str(error))}", err=True)
        sys.exit(EXIT_MOUNT_FAILURE)
    sys.exit(0)


def _run(arguments: list[str]) -> None:
    try:
        given, names = getopt.gnu_getopt(arguments, "sfnvhN:o:t:", ["help"])
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg}; {USAGE}") from None
    switches = {option for option, value in given if not value}
    if switches & {"-h", "--help"}:
        click.echo(f"{USAGE}\n\n{__doc__}")
        for switch, text in SWITCHES:
            click.echo(f"    {switch:<18}{text}")
        return
    if len(names) != 2:
        raise UsageError(f"give a source and a mount point; {USAGE}")
    if any(option == "-N" for option, _ in given):
        raise FusevolError(
            "-N is not supported; use nsenter --mount=NAMESPACE mount -t fusevol ... instead"
        )
    words = ",".join(value for option, value in given if option == "-o")
    source, mountpoint = names
    options = read_options(words, sloppy="-s" in switches)
    config = configure(source, mountpoint, options, in_background=True)
    if "-v" in switches:
        click.echo(
            f"mount.fusevol: {config.source} on {config.mountpoint}, level {config.level}, "
            f"log {config.log}"
        )
    try:
        if "-f" in switches:
            check(config)
        else:
            serve(config, foreground=False)
    except UsageError as error:
        # The line is well formed; if it cannot be done here and now, that is a failed mount.
        raise MountError(str(error)) from None


def read_options(text: str, sloppy: bool) -> Options:
    """Return the options after -o; `sloppy` ignores those that fusevol does not know.

    Raises:
        UsageError: an unknown word, or a value that is not one of those possible.
    """
    kept = []
    for word in split_options(text):
        if word.partition("=")[0] in _FOR_MOUNT:
            continue
        if sloppy and not _is_known(word):
            continue
        kept.append(word)
    if "remount" in kept:
        raise UsageError("remount is not supported; unmount, then mount with the new options")
    return parse_options(",".join(kept))


def _is_known(word: str) -> bool:
    key, equals, _ = word.partition("=")
    if equals and key in ("name", "log", "record", "on_log_failure"):
        return True  # its value is not what -s is about
    try:
        parse_options(word)
    except UsageError:
        return False
    return True
