"""What is attached to running containers, as it is kept on disk.

One file for each attachment below STATE/attachments, readable for its owner only, replaced
atomically. It is believed as long as the container runs.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from fusevol.containers.target import RunningContainer
from fusevol.linux.files import replace
from fusevol.linux.process import Process
from fusevol.options import config


class Attachment(msgspec.Struct):
    """A volume that was put into a running container.

    Attributes:
        target: what the container was called by.
        container: its full id.
        name: what its engine calls it.
        process: its first process.
        volume: name of the volume, as `fusevol serve` knows it, or a path of the host.
        source: what was asked for: the name and sub-path, or a path of the host.
        mount_id: of the mount in the container (/proc/PID/mountinfo).
        device: st_dev of the files on it.
        since: RFC 3339, UTC.
        mountpoint: where the volume is mounted on the host, if that is for this attachment alone;
            empty for a volume of `fusevol serve`.
    """

    target: str
    container: str
    name: str
    process: Process
    volume: str
    source: str
    destination: str
    read_only: bool
    mount_id: int
    device: int
    since: str
    mountpoint: str = ""

    @property
    def holder(self) -> str:
        """Holder of the reference to the volume."""
        return holder(self.container, self.destination)

    @property
    def path(self) -> str:
        """Where it is kept."""
        name = hashlib.sha256(os.fsencode(self.holder)).hexdigest()
        return os.path.join(_directory(), f"{name}.json")

    @property
    def attached_to(self) -> RunningContainer:
        """The container, without asking its engine."""
        return RunningContainer(self.target, self.container, self.name, self.process)

    def save(self) -> None:
        """Keep it."""
        # Not msgspec's own encoder: paths need not be valid UTF-8.
        replace(self.path, json.dumps(msgspec.to_builtins(self)).encode())

    def forget(self) -> None:
        """Keep it no longer."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def holder(container: str, destination: str) -> str:
    """Return the holder of a volume that is attached at a place of a container."""
    return f"{container}:{destination}"


def attachments() -> list[Attachment]:
    """Return what is attached, the oldest first; what has ended is forgotten."""
    directory = _directory()
    paths = [os.path.join(directory, name) for name in os.listdir(directory)]
    found = [one for path in paths if path.endswith(".json") and (one := _load(path))]
    ended = [one for one in found if not one.process.runs()]
    if ended:
        with changing():
            for one in ended:
                # Another may have been attached there meanwhile.
                current = _load(one.path)
                if current and not current.process.runs():
                    current.forget()
    return sorted((one for one in found if one not in ended), key=lambda one: one.since)


def _load(path: str) -> Attachment | None:
    try:
        with open(path, "rb") as file:
            return msgspec.convert(json.loads(file.read()), type=Attachment)
    except (OSError, ValueError):
        return None


@contextmanager
def changing() -> Iterator[None]:
    """Let no other process change what is attached inside the block; waits for it."""
    fd = os.open(_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _directory() -> str:
    path = os.path.join(config.state_directory(), "attachments")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path
