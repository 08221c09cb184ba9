"""`fusevol reload` has the code that is installed now serve; what cannot is refused before."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import fusevol
from tests.served import Record, needs_root, read_log
from tests.served import fusevol as run_fusevol

pytestmark = needs_root


@dataclass
class Installed:
    """A mount that is served by a copy of the package, which tests may change."""

    package: Path
    mountpoint: Path
    log: Path

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        """Run a command of the copy; return what it printed, or what it said when it failed."""
        env = {**os.environ, "PYTHONPATH": str(self.package.parent)}
        done = run_fusevol(*words, check=check, env=env)
        return done.stderr if done.returncode else done.stdout

    def change(self, module: str, old: str, new: str) -> None:
        """Change the text of a module."""
        path = self.package / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def serving(self) -> tuple[int, int, int]:
        """Return the keeper, the worker and the number of restarts."""
        for mount in json.loads(self("status", "--json")):
            if mount["mountpoint"] == str(self.mountpoint):
                return mount["pid"], mount["worker"], mount["restarts"]
        raise AssertionError(f"{self.mountpoint} is not served")

    def last_record(self, op: str) -> Record:
        """Return the newest record of an operation."""
        return [record for record in read_log(self.log) if record["op"] == op][-1]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    package = tmp_path / "code" / "fusevol"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fusevol.__file__).parent, package, ignore=ignore)
    for name in ("source", "volume"):
        (tmp_path / name).mkdir()
    copy = Installed(package, tmp_path / "volume", tmp_path / "log")
    copy("mount", tmp_path / "source", copy.mountpoint, "--log", copy.log)
    try:
        yield copy
    finally:
        copy("unmount", "--lazy", copy.mountpoint)


def test_new_code_serves(installed: Installed) -> None:
    with (installed.mountpoint / "open").open("wb", buffering=0) as file:
        file.write(b"1")
        (installed.mountpoint / "open").unlink()
        assert installed.last_record("write")["result"] == "ok"
        keeper, worker, restarts = installed.serving()
        installed.change("accesslog/record.py", 'OK: Final = "ok"', 'OK: Final = "as it has to be"')
        file.write(b"2")
        assert installed.last_record("write")["result"] == "ok"

        installed("reload", installed.mountpoint)
        file.write(b"3")
        assert installed.last_record("write")["result"] == "as it has to be"
        assert installed.last_record("write")["offset"] == 2
        assert installed.last_record("restart")["reason"].startswith("reload")
        now = installed.serving()
        assert (now[0], now[2]) == (keeper, restarts + 1)
        assert now[1] != worker


def does_not_compile(installed: Installed) -> None:
    installed.change("daemon/worker.py", "import", "import import")


def is_of_another_kind(installed: Installed) -> None:
    installed.change("recovery/region.py", "VERSION: Final = ", "VERSION: Final = 1000 + ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [(does_not_compile, "cannot be loaded (SyntaxError"), (is_of_another_kind, "mount anew")],
    ids=["syntax", "version"],
)
def test_code_that_cannot_serve_is_refused(
    installed: Installed, change: Callable[[Installed], None], reason: str
) -> None:
    before = installed.serving()
    change(installed)
    # The command itself has to run, so it is that of the package proper.
    done = run_fusevol("reload", installed.mountpoint, check=False)
    assert done.returncode != 0
    assert reason in done.stderr
    (installed.mountpoint / "file").write_text("still served")
    assert installed.last_record("create")["result"] == "ok"
    status = json.loads(run_fusevol("status", "--json").stdout)
    assert before in [(mount["pid"], mount["worker"], mount["restarts"]) for mount in status]
