"""Volumes and references on disk.

    STATE/volumes.json        what volumes there are; replaced atomically, and on disk before the
                              answer to the request for the change
    STATE/volumes/NAME/data   what is in the volumes that have no source of their own
    STATE/trash               what was in such volumes until they were removed
    RUNTIME/references.json   who refers to them; gone after a reboot, as their holders are

Files carry a schema version. A newer one than this code knows is not overwritten.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Container
from typing import Any, Final

import msgspec

from fusevol.errors import FusevolError
from fusevol.linux.files import replace
from fusevol.linux.process import start_ticks
from fusevol.mounts.encoding import decode, encode
from fusevol.mounts.registry import runtime_directory
from fusevol.options import config
from fusevol.options.volume_words import VolumeOptions

SCHEMA: Final = 1


class StoredVolume(msgspec.Struct):
    """A volume as it is kept.

    Attributes:
        created: RFC 3339, UTC.
        anonymous: it goes with its last reference.
    """

    name: str
    created: str
    options: VolumeOptions
    anonymous: bool = False

    @property
    def log(self) -> str:
        """The file that gets its records, or "none"."""
        return self.options.log or os.path.join(config.log_directory(), f"{self.name}.log")


class Reference(msgspec.Struct):
    """What one holder has of a volume.

    Attributes:
        count: how often it mounted without unmounting.
        pid: process whose end ends the reference; 0 for none.
        start_ticks: when that process started (`linux.process`).
        since: when it came to be, in seconds since 1970.
        bound: the volume was seen in another mount namespace since then.
    """

    count: int = 0
    pid: int = 0
    start_ticks: int = 0
    since: float = 0.0
    bound: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it belongs to a process that has ended."""
        return self.pid > 0 and start_ticks(self.pid) != self.start_ticks


References = dict[str, dict[str, Reference]]
"""Volume -> holder -> reference."""


class _VolumesFile(msgspec.Struct):
    schema: int
    volumes: list[StoredVolume] = []


class _ReferencesFile(msgspec.Struct):
    schema: int
    references: References = {}


def volumes_directory() -> str:
    """Return where the data of volumes without a source is, made with mode 0700 if missing."""
    path = os.path.join(config.state_directory(), "volumes")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def data_directory(name: str) -> str:
    """Return the directory that holds the data of a volume without a source."""
    return os.path.join(volumes_directory(), name, "data")


def mountpoints_directory() -> str:
    """Return where volumes appear on the host, made with mode 0700 if it is missing."""
    path = os.path.join(runtime_directory(), "volumes")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def make_mountpoint(path: str, source: str) -> None:
    """Make an empty mount point, of the kind that `source` is, that nobody can use unmounted."""
    is_file = os.path.isfile(source)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISREG(status.st_mode) == is_file:
            return
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    if is_file:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o000))
    else:
        os.mkdir(path, 0o000)


def remove_mountpoint(path: str) -> bool:
    """Remove an empty mount point that nothing is mounted on; return whether there is none now.

    With it goes what other mount namespaces have mounted there: the kernel detaches it (Linux
    3.18). A namespace that was made while the volume was mounted has a copy of the mount, which
    would keep it alive as long as that namespace lives.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
        elif status.st_size == 0:
            os.unlink(path)
        else:
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_other_mountpoints(names: Container[str]) -> None:
    """Remove the mount points of volumes that are there no more."""
    directory = mountpoints_directory()
    for name in os.listdir(directory):
        if name not in names:
            remove_mountpoint(os.path.join(directory, name))


def load_volumes() -> list[StoredVolume]:
    """Return the volumes that are kept; FusevolError if they cannot be read."""
    file: _VolumesFile | None = _load(_volumes_path(), _VolumesFile)
    return file.volumes if file else []


def save_volumes(volumes: list[StoredVolume]) -> None:
    """Keep these volumes and no others; on disk when this returns. OSError if that fails."""
    replace(_volumes_path(), encode(_VolumesFile(SCHEMA, volumes)), durable=True)


def load_references() -> References:
    """Return the references that were saved since the last boot."""
    file: _ReferencesFile | None = _load(_references_path(), _ReferencesFile)
    return file.references if file else {}


def save_references(references: References) -> None:
    """Keep references over a restart of the daemon. OSError if that fails."""
    replace(_references_path(), encode(_ReferencesFile(SCHEMA, references)), durable=False)


def make_data_directory(name: str) -> None:
    """Make the directory for the data of a volume without a source, mode 0755."""
    path = data_directory(name)
    # The parent keeps others on the host out; the directory itself is what containers see.
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.makedirs(path, mode=0o755, exist_ok=True)


def discard_data(name: str) -> bool:
    """Take the data of a volume out of the way at once; return whether there were any."""
    trash = _trash_directory()
    os.makedirs(trash, mode=0o700, exist_ok=True)
    try:
        os.rename(
            os.path.join(volumes_directory(), name),
            os.path.join(trash, f"{name[:64]}.{secrets.token_hex(8)}"),
        )
    except FileNotFoundError:
        return False
    return True


def empty_trash() -> None:
    """Remove what was discarded. Takes as long as there are files."""
    shutil.rmtree(_trash_directory(), ignore_errors=True)


def _trash_directory() -> str:
    return os.path.join(config.state_directory(), "trash")


def _volumes_path() -> str:
    directory = config.state_directory()
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return os.path.join(directory, "volumes.json")


def _references_path() -> str:
    return os.path.join(runtime_directory(), "references.json")


def _load(path: str, kind: type[msgspec.Struct]) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        loaded = decode(data, kind)
    except msgspec.DecodeError as error:
        raise FusevolError(
            f"{path} cannot be read: {error}; restore it, or move it away to start without volumes"
        ) from None
    if loaded.schema > SCHEMA:
        raise FusevolError(
            f"{path} was written by a newer fusevol (schema {loaded.schema}, this version supports "
            f"{SCHEMA}); use the newer version"
        )
    return loaded
