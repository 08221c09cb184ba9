"""A volume, its twin on the host's own file system, and all that belongs to them."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fusevol.linux.mounts import (
    MNT_DETACH,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REMOUNT,
    mount,
    umount,
)
from fusevol.logagent import status as agents
from fusevol.mounts import registry
from tests.engines.daemon import Daemon
from tests.promises.options import Feature, Options
from tests.promises.receiver import Receiver
from tests.served import end, fusevol, runs, wait_until

SIZE: Final = 4 << 20
"""Bytes of each file system that can become full."""
_numbers: Final = itertools.count(1)


@dataclass
class Volume:
    """A volume that is served.

    Attributes:
        source: what it serves, as the host changes it; native: the twin, where the host does the
            same.
        client: where clients have it; twin: where they have the twin.
        log: its access log, on a file system of its own.
        level: the record level now.
        is_broken: a promise was broken; there is no use in waiting for it to end well.
    """

    name: str
    options: Options
    directory: Path
    source: Path
    native: Path
    client: Path
    twin: Path
    log: Path
    receiver: Receiver | None
    daemon: Daemon
    level: str
    is_broken: bool = False

    def logs(self) -> list[Path]:
        """The log and what was rotated of it, in no order."""
        return list(self.log.parent.glob(f"{self.log.name}*"))

    @property
    def serving(self) -> registry.MountEntry:
        """The entry of the registry."""
        entry = registry.get(str(self.client))
        assert entry is not None, f"{self.client} is not in the registry"
        return entry

    @property
    def agent(self) -> int:
        """The log agent; 0 while none runs."""
        status = agents.read(str(self.log))
        return status.pid if status is not None and runs(status.pid) else 0

    def await_served(self) -> None:
        """Wait until keeper, worker and, where it takes one, log agent run."""

        def is_served() -> bool:
            entry = registry.get(str(self.client))
            return (
                entry is not None and runs(entry.pid) and bool(entry.worker) and runs(entry.worker)
            )

        wait_until(is_served, "a keeper and a worker")
        if self.options.needs_agent:
            wait_until(lambda: self.agent, "a log agent")

    def words(self) -> list[str]:
        """The words of `-o`."""
        return self.options.words(str(self.directory / "receiver"))


@contextmanager
def prepared(directory: Path, options: Options, daemon: Daemon) -> Iterator[Volume]:
    """Have all that a volume with these options takes inside the block."""
    name = f"v{next(_numbers)}"
    place = directory / name
    place.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        for part in ("source", "native", "twin", "volume", "log"):
            (place / part).mkdir()
        if Feature.DISK not in options:
            for part in ("source", "native"):
                stack.enter_context(_file_system(place / part))
        stack.enter_context(_file_system(place / "log"))
        source, native = (_content(place / part, options, stack) for part in ("source", "native"))
        if Feature.SINGLE_FILE in options:
            for part in ("twin", "volume"):
                (place / part).rmdir()
                (place / part).touch()
        stack.enter_context(_bound(native, place / "twin", Feature.READ_ONLY in options))
        receiver = None
        if Feature.SINK in options:
            receiver = stack.enter_context(Receiver(place / "receiver"))
        yield Volume(
            name, options, place, source, native,
            daemon.mount_point(name) if Feature.SERVED in options else place / "volume",
            place / "twin", place / "log/access.log", receiver, daemon, options.level,
        )  # fmt: skip


@contextmanager
def served(volume: Volume) -> Iterator[None]:
    """Serve a volume inside the block; fails if it does not end cleanly, unless it is broken."""
    serve = _by_daemon if Feature.SERVED in volume.options else _by_command
    with serve(volume):
        volume.await_served()
        yield


@contextmanager
def _by_command(volume: Volume) -> Iterator[None]:
    words = [*volume.words(), *(["ro"] if Feature.READ_ONLY in volume.options else [])]
    options = ["-o", ",".join(words)] if words else []
    fusevol("mount", volume.source, volume.client, "--log", volume.log, "--name", volume.name,
            "--record", volume.level, *options)  # fmt: skip
    try:
        yield
    finally:
        if volume.is_broken:
            fusevol("unmount", "--force", volume.client, check=False)
        else:
            end(volume.client)


@contextmanager
def _by_daemon(volume: Volume) -> Iterator[None]:
    words = [
        f"source={volume.source}", f"log={volume.log}", f"record={volume.level}", *volume.words(),
        *(["ro"] if Feature.READ_ONLY in volume.options else []),
    ]  # fmt: skip
    volume.daemon.cli(
        "volume", "create", volume.name,
        *(f"-o{word}" if "=" in word else f"-o{word}=true" for word in words),
    )  # fmt: skip
    with volume.daemon.client() as client:
        client.mount(volume.name, "promises")
    try:
        yield
    finally:
        if volume.is_broken:
            volume.daemon.cli("volume", "release", volume.name, "--force", check=False)
        else:
            with volume.daemon.client() as client:
                client.unmount(volume.name, "promises")
        volume.daemon.cli("volume", "rm", volume.name, check=not volume.is_broken)


@contextmanager
def _file_system(place: Path) -> Iterator[None]:
    mount("tmpfs", str(place), "tmpfs", 0, f"mode=755,size={SIZE}")
    try:
        yield
    finally:
        umount(str(place), MNT_DETACH)


@contextmanager
def _bound(path: Path, place: Path, read_only: bool) -> Iterator[None]:
    mount(str(path), str(place), "", MS_BIND, "")
    # What is mounted below the original shall not show.
    mount("", str(place), "", MS_PRIVATE, "")
    if read_only:
        mount("", str(place), "", MS_BIND | MS_REMOUNT | MS_RDONLY, "")
    try:
        yield
    finally:
        umount(str(place), MNT_DETACH)


def _content(place: Path, options: Options, stack: ExitStack) -> Path:
    """Make what a volume has at its beginning; return what is served."""
    if Feature.SINGLE_FILE in options:
        (place / "file").write_bytes(b"content\n")
        return place / "file"
    top = place / "top"
    top.mkdir()
    (top / "a").mkdir()
    (top / "a/b").write_bytes(b"content\n")
    (top / "b").write_bytes(b"more content\n")
    if Feature.NESTED in options:
        (top / "c").mkdir()
        stack.enter_context(_file_system(top / "c"))
    return top
