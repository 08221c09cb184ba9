"""What happens to a volume while it is used: deaths, changes of its log and source, the host."""

import errno
import os
import select
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from fusevol.linux.mounts import MNT_DETACH, MS_BIND, MS_RDONLY, MS_REMOUNT, mount, umount
from tests.patience import PATIENCE_S
from tests.promises.options import Feature
from tests.promises.volume import SIZE, Volume
from tests.served import fusevol, wait_until

_BLOCK: Final = 1 << 16
_PAGE: Final = 4096


@dataclass
class Events:
    """Has things happen to one volume; those that last are undone by happening again.

    Attributes:
        has_deleted_log: some records are gone, on purpose.
        log_is_full: nothing can be recorded.
    """

    volume: Volume
    has_deleted_log: bool = False
    log_is_full: bool = False
    _undo: dict[str, Callable[[], None]] = field(default_factory=dict)

    @property
    def refuses(self) -> bool:
        """Whether operations have to fail, as there can be no record of them."""
        return self.log_is_full and Feature.DENY in self.volume.options

    @property
    def source_is_away(self) -> bool:
        """Whether something else stands where the source was."""
        return "source_replaced" in self._undo

    def happen(self, name: str) -> None:
        """Have it happen, if it can here."""
        if name not in self._undo:
            getattr(self, name)()
            return
        # What came later may be in the way.
        while name in self._undo:
            self._undo.popitem()[1]()

    def undo_all(self) -> None:
        """End all that lasts."""
        while self._undo:
            self._undo.popitem()[1]()

    # --- deaths ---

    def kill(self, *victims: str) -> None:
        """Kill processes at once; they are succeeded while the next calls wait already.

        Keeper and worker together take somebody who has a spare of what they had.
        """
        served = Feature.SERVED in self.volume.options
        if {"keeper", "worker"} <= set(victims) and (not served or "daemon" in victims):
            return
        self.volume.await_served()
        entry = self.volume.serving
        pids = {
            "keeper": entry.pid, "worker": entry.worker, "agent": self.volume.agent,
            "daemon": self.volume.daemon.pid,
        }  # fmt: skip
        fds = [os.pidfd_open(pids[victim]) for victim in victims if pids[victim]]
        for fd in fds:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        if "daemon" in victims:
            self.volume.daemon.kill()
            self.volume.daemon.start()
        for fd in fds:
            # A zombie's pidfd is readable, too: nobody else has its number meanwhile.
            assert select.select([fd], [], [], PATIENCE_S)[0], f"one of {victims} did not die"
            os.close(fd)

    def reload(self) -> None:
        """Go on by the code that is installed."""
        self.volume.await_served()
        fusevol("reload", self.volume.client)

    def update(self) -> None:
        """Change what a volume of the daemon records, both ways in turn."""
        if Feature.SERVED in self.volume.options:
            level = "data" if self.volume.level == "all" else "all"
            self.volume.daemon.cli("volume", "update", self.volume.name, "--record", level)
            self.volume.level = level

    # --- its log ---

    def log_renamed(self) -> None:
        """As logrotate(8) does it."""
        log = self.volume.log
        number = 1
        while Path(f"{log}.{number}").exists():
            number += 1
        for older in range(number, 1, -1):
            os.rename(f"{log}.{older - 1}", f"{log}.{older}")
        os.rename(log, f"{log}.1")
        self._reload_logs()

    def log_deleted(self) -> None:
        """As somebody does it who wants the space."""
        for path in self.volume.logs():
            path.unlink()
        self.has_deleted_log = True
        self._reload_logs()

    def _reload_logs(self) -> None:
        self.volume.await_served()
        fusevol("reload", "--logs", self.volume.client)
        wait_until(self.volume.log.exists, "a new log")

    def log_full(self) -> None:
        """Its file system has no room."""
        filler = self.volume.log.with_name("filler")
        _fill(filler)
        self.log_is_full = True

        def free() -> None:
            filler.unlink()
            # It is tried again a few times a second.
            wait_until(self._is_answered, "an answer after there is room for records again")
            self.log_is_full = False

        self._undo["log_full"] = free

    def receiver_away(self) -> None:
        """The program that takes records has crashed; what it lacks it gets later."""
        receiver = self.volume.receiver
        if receiver is not None:
            receiver.go()
            self._undo["receiver_away"] = receiver.come

    def _is_answered(self) -> bool:
        try:
            os.lstat(self.volume.client)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True

    # --- its source ---

    def source_full(self) -> None:
        """The source's file system has no room, nor has the twin's."""
        if Feature.DISK in self.volume.options:
            return
        fillers = [path.parent / "filler" for path in (self.volume.source, self.volume.native)]
        try:
            for filler in fillers:
                _fill(filler)
        except OSError as error:
            # It is read-only.
            if error.errno != errno.EROFS:
                raise
            return
        self._undo["source_full"] = partial(_each, Path.unlink, fillers)

    def source_read_only(self) -> None:
        """The source's file system refuses changes, as does the twin's."""
        if Feature.DISK in self.volume.options:
            return
        places = [path.parent for path in (self.volume.source, self.volume.native)]
        try:
            for place in places:
                _remount(place, MS_RDONLY)
        except OSError as error:
            # Somebody has a file open for writing.
            if error.errno != errno.EBUSY:
                raise
            for place in places:
                _remount(place, 0)
            return
        self._undo["source_read_only"] = partial(_each, _writable, places)

    def source_replaced(self) -> None:
        """Something else stands in its place for a while; what is served stays what it was."""
        source = self.volume.source
        away = source.with_name("away")
        try:
            source.rename(away)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EBUSY):
                raise
            return
        if Feature.SINGLE_FILE in self.volume.options:
            source.write_bytes(b"not this one")
        else:
            (source / "not-this-one").mkdir(parents=True)

        def put_back() -> None:
            source.unlink() if source.is_file() else shutil.rmtree(source)
            away.rename(source)

        self._undo["source_replaced"] = put_back

    def host_binds(self) -> None:
        """The host mounts something below the source, which the volume does not show."""
        places = [path / "a" for path in (self.volume.source, self.volume.native)]
        if not all(place.is_dir() and not place.is_symlink() for place in places):
            return
        for place in places:
            mount("/usr", str(place), "", MS_BIND, "")
        self._undo["host_binds"] = partial(_each, _unbind, places)


HAPPENINGS: Final = (
    "reload", "update", "log_renamed", "log_deleted", "log_full", "receiver_away", "source_full",
    "source_read_only", "source_replaced", "host_binds",
)  # fmt: skip
VICTIMS: Final = ("worker", "keeper", "agent", "daemon")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (_BLOCK, _PAGE):
            try:
                for _ in range(2 * SIZE // size):
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _each(act: Callable[[Path], None], paths: list[Path]) -> None:
    for path in paths:
        act(path)


def _unbind(place: Path) -> None:
    umount(str(place), MNT_DETACH)


def _writable(place: Path) -> None:
    _remount(place, 0)


def _remount(place: Path, flags: int) -> None:
    mount("", str(place), "", MS_REMOUNT | flags, "")
