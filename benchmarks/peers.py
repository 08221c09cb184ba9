"""What is compared: how each peer is mounted, and whether it can be here."""

import os
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from benchmarks.mounting import Mount, Target

LogPlace = Literal["tmpfs", "disk"]

_LOGGEDFS_CONFIG: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<loggedFS logEnabled="true" printProcessName="true">
\t<includes>
\t\t<include extension=".*" uid="*" action=".*" retname=".*"/>
\t</includes>
\t<excludes>
\t</excludes>
</loggedFS>
"""


@dataclass(frozen=True)
class Peer(ABC):
    """One of the things compared. `name` is its column."""

    name: str
    description: str
    in_place: bool = False
    """Mounts over the directory it serves, or is that directory."""
    log_place: LogPlace | None = None
    """Where it keeps an access log in a file, if it does; then the log must not stay empty."""
    log_variant: bool = False
    """Shows what logging costs and nothing else: takes part where that is the question."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot take part, or None."""

    @abstractmethod
    def mount(self, target: Target) -> Mount | None:
        """Returns a mount to be entered, or None where there is nothing to mount."""


class Native(Peer):
    """The source itself: what the others are measured against."""

    def missing(self) -> str | None:
        return None

    def mount(self, target: Target) -> Mount | None:
        return None


class Bindfs(Peer):
    """bindfs as it comes: libfuse 3, one thread, no log; attributes cached for a second."""

    def missing(self) -> str | None:
        return _not_installed("bindfs")

    def mount(self, target: Target) -> Mount | None:
        command = ["bindfs", str(target.source), str(target.mountpoint)]
        return Mount(target, command, _fusermount(target))


class LoggedFs(Peer):
    """LoggedFS with every operation logged.

    In the foreground (-f), because only there its records go to the file given with -l. As a daemon
    version 0.9 sends them to syslog; with no syslog running they are lost, which makes it faster.
    """

    def missing(self) -> str | None:
        return _not_installed("loggedfs")

    def mount(self, target: Target) -> Mount | None:
        config = target.scratch / "loggedfs.xml"
        config.write_text(_LOGGEDFS_CONFIG)
        # -p is allow_other with default_permissions; without root /etc/fuse.conf must allow it.
        public = ["-p"] if os.geteuid() == 0 else []
        command = ["loggedfs", "-f", *public, "-l", str(target.log), "-c", str(config)]
        return Mount(target, [*command, str(target.mountpoint)], _fusermount(target), stays=True)


@dataclass(frozen=True)
class Fusevol(Peer):
    """fusevol at one record level, with one kind of log."""

    level: str = "all"
    log: Literal["file", "/dev/null", "none"] = "file"
    command: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()

    def missing(self) -> str | None:
        if self.command is None:
            return "no working fusevol found: run scripts/setup bench, or name one with --fusevol"
        return None

    def mount(self, target: Target) -> Mount | None:
        assert self.command is not None
        log = str(target.log) if self.log == "file" else self.log
        where = [str(target.source), str(target.mountpoint)]
        return Mount(
            target,
            [*self.command, "mount", *where, "--record", self.level, "--log", log, *self.options],
            [*self.command, "unmount", str(target.mountpoint)],
        )


def all_peers(command: tuple[str, ...] | None, options: tuple[str, ...]) -> list[Peer]:
    """Every peer there is, in the order of the columns."""

    def fusevol(
        suffix: str,
        description: str,
        level: str,
        log: Literal["file", "/dev/null", "none"] = "file",
        place: LogPlace | None = "tmpfs",
    ) -> Peer:
        return Fusevol(
            f"fusevol-{suffix}",
            f"fusevol, record level {level}, {description}",
            log_place=place,
            log_variant=suffix != level,
            level=level,
            log=log,
            command=command,
            options=options,
        )

    return [
        Native("native", "the source directory itself", in_place=True),
        fusevol("all", "log in a file on tmpfs", "all"),
        fusevol("all-disklog", "log in a file on disk", "all", place="disk"),
        fusevol("all-nulllog", "log to /dev/null", "all", "/dev/null", None),
        fusevol("all-nolog", "no log", "all", "none", None),
        fusevol("data", "log in a file on tmpfs", "data"),
        fusevol("data-nolog", "no log", "data", "none", None),
        Bindfs("bindfs", "bindfs with its defaults: one thread, no log"),
        LoggedFs(
            "loggedfs",
            "LoggedFS, everything logged, log in a file on tmpfs",
            in_place=True,
            log_place="tmpfs",
        ),
    ]


DEFAULT: Final = (
    "native,fusevol-all,fusevol-all-disklog,fusevol-all-nulllog,fusevol-all-nolog,fusevol-data,"
    "bindfs,loggedfs"
)


def select(peers: Sequence[Peer], patterns: str) -> list[Peer]:
    """The peers whose names match one of the comma-separated patterns.

    Raises:
        ValueError: a pattern matches none.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(peer.name, pattern) for peer in peers):
            raise ValueError(
                f"no peer is called '{pattern}': there are {', '.join(p.name for p in peers)}"
            )
    return [peer for peer in peers if any(fnmatchcase(peer.name, p) for p in wanted)]


def find_fusevol(given: str | None) -> tuple[str, ...] | None:
    """The command to call fusevol by: the one given, or the first that can mount."""
    if given is not None:
        return tuple(shlex.split(given))
    beside = Path(sys.executable).parent / "fusevol"
    in_tree = Path(__file__).parents[1] / ".venv" / "bin" / "fusevol"
    candidates: list[tuple[str, ...]] = [(str(path),) for path in (beside, in_tree)]
    if find_spec("fusevol.__main__"):
        candidates.append((sys.executable, "-m", "fusevol"))
    if on_path := shutil.which("fusevol"):
        candidates.append((on_path,))
    return next((candidate for candidate in candidates if _can_mount(candidate)), None)


def _can_mount(command: tuple[str, ...]) -> bool:
    try:
        answer = subprocess.run(
            [*command, "mount", "--help"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _not_installed(command: str) -> str | None:
    return None if shutil.which(command) else f"{command} is not installed"


def _fusermount(target: Target) -> list[str]:
    if os.geteuid() == 0:
        return ["umount", str(target.mountpoint)]
    # libfuse 3's program ends mounts of libfuse 2 as well.
    return ["fusermount3", "-u", str(target.mountpoint)]
