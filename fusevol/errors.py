"""The errors that end a command, and the exit code each one carries.

    FusevolError            1  failed
    +-- UsageError          2  incorrect usage: an unknown option, an invalid value or path
    +-- NotFoundError       3  source, mount point, volume or mount does not exist
    +-- NotPermittedError   4  the caller may not do this
    +-- UnsupportedError    5  this kernel or host cannot do this
    +-- MountError         32  the mount itself failed (only /sbin/mount.fusevol exits with 32)
    +-- NotRunError       125  `fusevol run` has no status of a command to exit with

Errors of the host's system calls travel as OSError and become an errno for the client; they are
not part of this tree.
"""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_NOT_PERMITTED = 4
EXIT_UNSUPPORTED = 5
EXIT_NOT_RUN = 125
"""Docker's exit code if it, and not the command, has failed."""
EXIT_MOUNT_FAILURE = 32
"""Exit status of a mount helper whose mount failed (mount(8), "EXIT STATUS")."""


class FusevolError(Exception):
    """A failure shown to the user in one line: what failed, on what, why, what to do."""

    exit_code = EXIT_FAILED


class UsageError(FusevolError):
    """The command was called incorrectly."""

    exit_code = EXIT_USAGE


class NotFoundError(FusevolError):
    """Something the command needs does not exist."""

    exit_code = EXIT_NOT_FOUND


class NotPermittedError(FusevolError):
    """The caller lacks the right to do this."""

    exit_code = EXIT_NOT_PERMITTED


class UnsupportedError(FusevolError):
    """This kernel or host lacks a requested feature."""

    exit_code = EXIT_UNSUPPORTED


class MountError(FusevolError):
    """The kernel or fusermount3 refused the mount."""


class NotRunError(FusevolError):
    """`fusevol run` failed before there was a status of the command."""

    exit_code = EXIT_NOT_RUN
