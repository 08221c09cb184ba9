"""What is in an image that an engine wrote out."""

import gzip
import io
import json
import tarfile
from pathlib import Path


class Image:
    """A docker-archive: what `docker save`, `podman save` and `fusevol commit` write."""

    def __init__(self, archive: Path) -> None:
        """Read the archive's table of contents."""
        self._archive = archive
        with tarfile.open(archive) as whole:
            (manifest,) = json.loads(_read(whole, "manifest.json"))
            self.config = json.loads(_read(whole, manifest["Config"]))
            self._layers = list(manifest["Layers"])

    def entries(self) -> dict[str, list[tarfile.TarInfo]]:
        """Return what the layers hold, by path without leading "./"; the base layer first."""
        found: dict[str, list[tarfile.TarInfo]] = {}
        with tarfile.open(self._archive) as whole:
            for layer in self._layers:
                for member in self._layer(whole, layer).getmembers():
                    name = member.name.removeprefix("./").removeprefix("/")
                    found.setdefault(name, []).append(member)
        return found

    def below(self, path: str) -> list[str]:
        """Return the paths that the layers hold below a directory."""
        return sorted(name for name in self.entries() if name.startswith(f"{path.strip('/')}/"))

    def content(self, path: str) -> bytes:
        """Return the content of a file in the topmost layer that has it."""
        with tarfile.open(self._archive) as whole:
            for layer in reversed(self._layers):
                opened = self._layer(whole, layer)
                for member in opened.getmembers():
                    if member.name.removeprefix("./").strip("/") == path.strip("/"):
                        file = opened.extractfile(member)
                        assert file
                        return file.read()
        raise AssertionError(f"no {path} in {self._archive}")

    def holders(self, needle: bytes) -> list[str]:
        """Return what holds some bytes: members of the archive, layers unpacked."""
        with tarfile.open(self._archive) as whole:
            files = [member.name for member in whole.getmembers() if member.isfile()]
            return [name for name in files if needle in _unpacked(_read(whole, name))]

    def _layer(self, whole: tarfile.TarFile, name: str) -> tarfile.TarFile:
        return tarfile.open(fileobj=io.BytesIO(_read(whole, name)), mode="r:*")


def _read(whole: tarfile.TarFile, name: str) -> bytes:
    file = whole.extractfile(name)
    assert file
    return file.read()


def _unpacked(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer
