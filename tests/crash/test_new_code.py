"""`fusevol reload` has the code that is installed now serve; what cannot is refused before."""

import json
from collections.abc import Callable

import pytest

from tests.crash.installed import Installed
from tests.served import fusevol, needs_root

pytestmark = needs_root


def test_new_code_serves(installed: Installed) -> None:
    with (installed.mountpoint / "open").open("wb", buffering=0) as file:
        file.write(b"1")
        (installed.mountpoint / "open").unlink()
        assert installed.last_record("write")["result"] == "ok"
        keeper, worker, restarts = installed.serving()
        installed.change("record/record.py", 'OK: Final = "ok"', 'OK: Final = "as it has to be"')
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
    installed.change("processes/worker.py", "import", "import import")


def has_another_operation(installed: Installed) -> None:
    installed.change("record/record.py", '    "lookup", ', '    "new", "lookup", ')


def moves_a_word(installed: Installed) -> None:
    installed.change("recovery/region.py", "PROGRESS: Final = 18", "PROGRESS: Final = 11")


def changes_a_record(installed: Installed) -> None:
    installed.change("recovery/nodes.py", 'Struct("7Q64s")', 'Struct("6Q72s")')


def changes_a_bucket(installed: Installed) -> None:
    installed.change("recovery/counters.py", "_ERRNOS: Final = 192", "_ERRNOS: Final = 200")


def wants_another_description(installed: Installed) -> None:
    installed.change("processes/channel.py", "    owner: int = 0", "    owner: str = ''")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (does_not_compile, "cannot be loaded (SyntaxError"),
        (has_another_operation, "mount again"),
        (moves_a_word, "mount again"),
        (changes_a_record, "mount again"),
        (changes_a_bucket, "mount again"),
        (wants_another_description, "mount again"),
    ],
)
def test_code_that_cannot_serve_is_refused(
    installed: Installed, change: Callable[[Installed], None], reason: str
) -> None:
    before = installed.serving()
    change(installed)
    # The command itself has to run, so it is that of the package proper.
    done = fusevol("reload", installed.mountpoint, check=False)
    assert done.returncode == 1
    assert reason in done.stderr
    (installed.mountpoint / "file").write_text("still served")
    assert installed.last_record("create")["result"] == "ok"
    status = json.loads(fusevol("status", "--json").stdout)
    assert before in [(mount["pid"], mount["worker"], mount["restarts"]) for mount in status]
