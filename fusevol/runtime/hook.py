"""The hook that puts volumes into a container of `fusevol run`, called by the OCI runtime.

    python -P -m fusevol.runtime.hook FILE

FILE says which volumes, and where they are mounted on the host; what goes wrong is written to
FILE.error, as not every runtime shows what its hooks say.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import closing

import msgspec

from fusevol.binding.creating import STATE_MAX_BYTES, Creation, read_state
from fusevol.errors import FusevolError
from fusevol.runtime.bundle import Hook

_PASSED_ON = ("PATH", "PYTHONPATH")


class Mounted(msgspec.Struct):
    """A volume as it is mounted on the host, and where it goes.

    Attributes:
        subpath: what of it appears; empty for all.
        destination: absolute path in the container.
    """

    mountpoint: str
    subpath: str
    destination: str
    read_only: bool


class Wanted(msgspec.Struct):
    """What the hook reads.

    Attributes:
        owner: process in whose mount namespace the volumes are.
    """

    owner: int
    volumes: list[Mounted]


def write_wanted(path: str, volumes: Sequence[Mounted], stage: str) -> Hook:
    """Write a file for the hook; return how it is called.

    Args:
        path: of the file.
        volumes: as this process sees them.
        stage: see `Hook`.
    """
    ordered = sorted(volumes, key=lambda one: one.destination.count("/"))
    with open(path, "wb", opener=_private) as file:
        file.write(msgspec.json.encode(Wanted(os.getpid(), ordered)))
    # -P: the working directory can be the container's root file system.
    words = [sys.executable, "-P", "-m", __name__, path]
    environment = [f"{name}={os.environ[name]}" for name in _PASSED_ON if name in os.environ]
    return Hook(stage, words, environment)


def error_of(path: str) -> str:
    """Return what went wrong in the hook that read the file; empty if nothing did."""
    try:
        with open(f"{path}.error", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def main() -> None:
    """Bind the volumes of the file that the command line names; status 1 if that fails."""
    path = sys.argv[1]
    try:
        _bind_all(path)
    except FusevolError as error:
        _complain(path, str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _complain(path, f"{where}{error.strerror}")


def _bind_all(path: str) -> None:
    with open(path, "rb") as file:
        wanted = msgspec.json.decode(file.read(), type=Wanted)
    state = read_state(sys.stdin.buffer.read(STATE_MAX_BYTES + 1))
    with closing(Creation(state)) as container:
        for one in wanted.volumes:
            container.bind(
                one.mountpoint, one.subpath, wanted.owner, one.destination, one.read_only
            )


def _complain(path: str, message: str) -> None:
    with open(f"{path}.error", "w", errors="surrogateescape", opener=_private) as file:
        file.write(message)
    sys.exit(1)


if __name__ == "__main__":
    main()
