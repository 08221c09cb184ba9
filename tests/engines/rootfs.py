"""A root file system of busybox, and images made of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.engines.machine import command

APPLETS: Final = (
    "cat", "chmod", "cut", "dd", "echo", "env", "false", "find", "grep", "head", "id", "kill",
    "ln", "ls", "mkdir", "mkfifo", "mount", "mv", "ps", "pwd", "readlink", "rm", "rmdir", "seq",
    "sh", "sleep", "stat", "sync", "tail", "test", "touch", "true", "umount", "wc",
)  # fmt: skip

ORIGINAL: Final = "what the image has here\n"
"""Content of /data/original in the image."""


def make_rootfs(directory: Path) -> Path:
    """Make a root file system; /data holds a file `original`, /mnt is empty."""
    for name in ("bin", "data", "dev", "etc", "mnt", "proc", "root", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy2("/usr/bin/busybox", directory / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", directory / "bin" / applet)
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:\n")
    (directory / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (directory / "data/original").write_text(ORIGINAL)
    return directory


def tar_of(rootfs: Path) -> bytes:
    """Return a tar of a root file system, as `docker import -` reads it."""
    archive = rootfs.with_name(rootfs.name + ".tar")
    if not archive.exists():
        command("tar", "-C", rootfs, "--numeric-owner", "-cf", archive, ".")
    return archive.read_bytes()


def make_oci_layout(rootfs: Path, layout: Path, tag: str = "bb") -> str:
    """Make an OCI layout of one layer from a root file system; return `oci:DIR:TAG`."""
    bundle = layout.with_name(layout.name + ".bundle")
    image = f"{layout}:{tag}"
    command("umoci", "init", "--layout", layout)
    command("umoci", "new", "--image", image)
    command("umoci", "unpack", "--image", image, bundle)
    command("cp", "-a", f"{rootfs}/.", bundle / "rootfs")
    command("umoci", "repack", "--image", image, bundle)
    command(
        "umoci", "config", "--image", image,
        "--config.env", "PATH=/bin", "--config.cmd", "/bin/sh", "--config.workingdir", "/",
    )  # fmt: skip
    shutil.rmtree(bundle)
    return f"oci:{image}"


@contextmanager
def overlay(lower: Path, directory: Path) -> Iterator[Path]:
    """A private, writable view of a root file system inside the block."""
    merged = directory / "merged"
    for name in ("upper", "work", "merged"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
    command("mount", "-t", "overlay", "overlay", "-o", options, merged)
    try:
        yield merged
    finally:
        command("umount", merged)
