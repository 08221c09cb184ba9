"""An ordinary user for tests, who runs fusevol where everybody may use /dev/fuse."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.patience import PATIENCE_S

NOBODY: Final = 65534
AS_NOBODY: Final = (
    shutil.which("setpriv") or "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
)
_NSENTER: Final = shutil.which("nsenter") or "nsenter"


class Nobody:
    """An ordinary user, in a mount namespace in which everybody may use /dev/fuse.

    That is so on most hosts; where it is not, the host is left as it is.
    """

    def __init__(self, place: Path, namespace: int) -> None:
        self._command, self._environment = _reachable_for_nobody()
        self._environment |= {"HOME": f"{place}/mine", "XDG_RUNTIME_DIR": f"{place}/mine"}
        self._namespace = namespace

    def __call__(
        self, *arguments: str | Path, path: str = os.defpath
    ) -> "subprocess.CompletedProcess[str]":
        """Run fusevol."""
        return self.run(*AS_NOBODY, *self._command, *arguments, path=path)

    def run(
        self, *command: str | Path, path: str = os.defpath
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program, as root, in the namespace."""
        enter = [_NSENTER, f"--target={self._namespace}", "--mount", "--"]
        return subprocess.run(
            [*enter, *map(str, command)], cwd="/", timeout=PATIENCE_S, check=False, text=True,
            env=self._environment | {"PATH": path}, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def mounts(self, place: Path) -> list[str]:
        """Return the lines of the mount table about what is below `place`."""
        table = Path(f"/proc/{self._namespace}/mountinfo").read_text(errors="surrogateescape")
        return [line for line in table.splitlines() if line.split()[4].startswith(f"{place}/")]


@contextmanager
def ordinary_user(place: Path) -> Iterator[Nobody]:
    """An ordinary user inside the block, who owns `place`/volume and a new directory `mine`."""
    (place / "mine").mkdir()
    for path in (place / "volume", place / "mine"):
        os.chown(path, NOBODY, NOBODY)
    device = place / "fuse"
    os.mknod(device, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    script = f"mount --bind {device} /dev/fuse && echo ready && exec sleep infinity"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            user = Nobody(place, holder.pid)
            yield user
            assert user.mounts(place) == []
        finally:
            holder.kill()


def _reachable_for_nobody() -> tuple[list[str], dict[str, str]]:
    """Return command and environment that run fusevol as a user who may read nothing of root's."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    paths = os.pathsep.join(path for path in sys.path if "site-packages" in path)
    code = "import sys; from fusevol.cli.main import main; sys.argv[0] = 'fusevol'; main()"
    check = (
        "import subprocess, sys, fusevol.fuse.session; "
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    repository = str(Path(__file__).parents[2])
    for interpreter in (sys.executable, f"/usr/bin/{version}"):
        environment = {"PYTHONPATH": os.pathsep.join((repository, paths)), "LC_ALL": "C.UTF-8"}
        tried = subprocess.run(
            [*AS_NOBODY, interpreter, "-P", "-c", check], cwd="/",
            env=environment, capture_output=True, check=False,
        )  # fmt: skip
        if tried.returncode == 0:
            return [interpreter, "-P", "-c", code], environment
    pytest.skip("no interpreter that another user than root can run")
