"""`fusevol top` on real volumes: its numbers, its text in a terminal, its keys."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest
from textual.pilot import Pilot
from textual.widget import Widget

from fusevol.top.app import Help, Top
from fusevol.top.collector import FrameCollector
from fusevol.top.table import Table
from tests.patience import PATIENCE_S
from tests.served import (
    FUSEVOL,
    Served,
    fusevol,
    kill_mount,
    needs_root,
    serve,
    status_of,
    wait_until,
)

FRAME_S: Final = 0.3
EVIL: Final = "[b]\x1b[1m\n[red]"
SHOWN: Final = r"[b]\x1b[1m\n[red]"

Frame = dict[str, Any]

pytestmark = needs_root


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's mounts are to be seen."""
    monkeypatch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path, "--name", "data") as served:
        yield served


@contextlib.contextmanager
def frames(*options: str) -> Iterator[Iterator[Frame]]:
    """The frames of a `fusevol top --json`, as they come."""
    command = [FUSEVOL, "top", "--json", "--interval", str(FRAME_S), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
        finally:
            process.kill()


def first(found: Iterator[Frame], wanted: Callable[[Frame], object]) -> Frame:
    """The first frame that is as wanted."""
    end = time.monotonic() + PATIENCE_S
    for frame in found:
        if wanted(frame):
            return frame
        assert time.monotonic() < end, f"no such frame; the last one is {frame}"
    raise AssertionError("no more frames")


class Sums:
    """What frames say has happened altogether, by a key of the rows of a view."""

    def __init__(self, view: str, key: str) -> None:
        self.view, self.key = view, key
        self.ops: dict[Any, float] = {}
        self.bytes_written: dict[Any, float] = {}
        self.errors: dict[Any, float] = {}

    def add(self, frame: Frame) -> None:
        for row in frame[self.view]:
            for sums, rate in (
                (self.ops, row["ops_per_s"]),
                (self.bytes_written, row["written_bytes_per_s"]),
                (self.errors, row["errors"].get("ENOENT", 0)),
            ):
                sums[row[self.key]] = sums.get(row[self.key], 0) + rate * frame["seconds"]


def burst(volume: Path) -> int:
    """Write 50 times 1,000 bytes, and look for what is not there 7 times; return by which pid."""
    code = (
        "import os, sys; os.chdir(sys.argv[1]); f = os.open('big', os.O_WRONLY | os.O_CREAT)\n"
        "for _ in range(50): os.write(f, bytes(1000))\n"
        "os.close(f)\n"
        "for n in range(7): os.path.exists('none%d' % n)\n"
    )
    with subprocess.Popen([sys.executable, "-I", "-c", code, volume]) as process:
        assert process.wait(PATIENCE_S) == 0
    return process.pid


def test_numbers_are_those_of_the_log(served: Served) -> None:
    sums = [
        Sums("volumes", "volume"), Sums("operations", "op"), Sums("paths", "path"),
        Sums("processes", "pid"), Sums("containers", "container"),
    ]  # fmt: skip
    volumes, operations, paths, processes, containers = sums
    with frames() as found:
        next(found)
        since = served.last_seq()
        pids = []
        for times in (1, 2):
            pids.append(burst(served.mountpoint))

            def is_all(frame: Frame, times: int = times) -> bool:
                for one in sums:
                    one.add(frame)
                return operations.ops.get("release", 0) > times - 0.5

            first(found, is_all)
            is_all(next(found))
    records = served.since(since)
    assert sum(record["op"] == "write" for record in records) == 100
    assert volumes.ops["data"] == pytest.approx(len(records), abs=0.5)
    assert operations.ops["write"] == pytest.approx(100, abs=0.1)
    assert operations.errors["lookup"] == pytest.approx(7 + 7 + 1, abs=0.1)
    for pid in pids:
        assert processes.ops[pid] == pytest.approx(sum(r["pid"] == pid for r in records), abs=0.5)
        assert processes.bytes_written[pid] == pytest.approx(50_000, rel=0.01)
    assert processes.errors[pids[0]] == pytest.approx(7 + 1, abs=0.1)
    for one, key in (
        (volumes, "data"), (operations, "write"), (paths, "/big"), (containers, None),
    ):  # fmt: skip
        assert one.bytes_written[key] == pytest.approx(100_000, rel=0.01)


def test_of_a_fast_log_a_sample_stands_for_all(served: Served) -> None:
    record = '{"time":"2026-11-24T10:00:00.0Z","seq":%d,"volume":"data","op":"read","path":"/%s"'
    record += ',"result":"ok","us":9,"uid":0,"gid":0,"pid":1,"comm":"cat","bytes_read":100}\n'
    lines = [record % (n, "rest" if n % 4 else "quarter") for n in range(24_000)]
    with frames() as found:
        next(found)
        with served.log.open("a") as log:
            log.write("".join(lines))
        frame = first(found, lambda frame: frame["share_of_log"] < 1)
    assert frame["share_of_log"] < 0.5
    count = {row["path"]: row["ops_per_s"] * frame["seconds"] for row in frame["paths"]}
    assert count["/rest"] == pytest.approx(18_000, rel=0.2)
    assert count["/quarter"] == pytest.approx(6_000, rel=0.2)


def test_a_mount_in_the_place_of_another_is_a_new_one(tmp_path: Path) -> None:
    with FrameCollector(lambda _served: True, lambda _container: None) as collector:
        for _ in range(2):
            with serve(tmp_path, "--name", "data") as served:
                collector.frame()
                for n in range(1, 4):
                    os.listdir(served.mountpoint)
                    [volume] = collector.frame().volumes
                    assert volume.operations is not None
                    assert volume.operations["readdir"].count >= 1
                    assert volume.now is not None
                    assert volume.now.operations["opendir"].count == n


def test_a_sink_that_gets_nothing_is_told(tmp_path: Path) -> None:
    sink = f"unix:{tmp_path}/none.sock"
    with serve(tmp_path, "-o", f"sinks={sink}") as served, frames() as found:
        os.listdir(served.mountpoint)
        first(found, lambda frame: f"wait for {sink}" in str(frame["volumes"][0].get("notes")))


def test_volumes_come_and_go_and_their_workers_and_logs_too(tmp_path: Path) -> None:
    with frames() as found:
        assert next(found)["volumes"] == []
        with serve(tmp_path, "--name", "data") as served:

            def volume(frame: Frame) -> Frame:
                return dict(frame["volumes"][0])

            shown = first(found, lambda frame: frame["volumes"])
            assert volume(shown)["mountpoint"] == str(served.mountpoint)
            assert (volume(shown)["restarts"], volume(shown)["lost"]) == (0, 0)
            os.kill(served.status()["worker"], signal.SIGKILL)
            wait_until(lambda: served.status()["restarts"] == 1, "next worker")
            first(found, lambda frame: volume(frame)["restarts"] == 1)
            served.log.unlink()
            first(
                found,
                lambda frame: f"its log {served.log} was removed" in volume(frame).get("notes", ()),
            )
            os.listdir(served.mountpoint)
            first(found, lambda frame: any(row["path"] == "/" for row in frame["paths"]))
            kill_mount(*(served.status()[key] for key in ("pid", "worker")))
            first(found, lambda frame: "have exited" in str(volume(frame).get("notes")))
            subprocess.run(["umount", "--lazy", served.mountpoint], check=True)
            first(found, lambda frame: frame["volumes"] == [])


def test_losses_are_told(tmp_path: Path) -> None:
    with serve(tmp_path, "--name", "data", log=Path("/dev/full")) as served, frames() as found:
        next(found)
        os.listdir(served.mountpoint)
        shown = first(found, lambda frame: frame["volumes"][0]["lost"] > 0)
        lost, no_log = shown["volumes"][0]["notes"]
        assert re.fullmatch("[1-9][0-9]* OPERATIONS WERE NOT RECORDED", lost)
        assert no_log == "the log /dev/full is not a regular file"


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    def told(*options: str, **env: str) -> tuple[int, str]:
        done = fusevol("top", *options, check=False, env=os.environ | env)
        return done.returncode, done.stderr

    assert told() == (
        2, "fusevol: the live view requires a terminal; use --batch, --once or --json\n",
    )  # fmt: skip
    assert told("--once", "--volume", "none") == (
        3, "fusevol: no volume named none is mounted; `fusevol status` lists the mounts\n",
    )  # fmt: skip
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    code, message = told("--once", FUSEVOL_RUNTIME_DIRECTORY=str(foreign))
    assert (code, "belongs to another user" in message) == (4, True)
    text = fusevol("top", "--once", "--interval", "0.1").stdout
    assert text.splitlines()[1] == "! no mounts are served"


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *command: str, **env: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", **env})
            os.execv(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.output = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def await_text(self, pattern: str) -> str:
        """Return all output up to where the pattern is in it."""
        end = time.monotonic() + PATIENCE_S
        while not re.search(pattern, text := self.output.decode(errors="replace")):
            assert time.monotonic() < end, f"no {pattern!r} in {text!r}"
            self._read(0.1)
        return text

    def end(self) -> int:
        """Wait for the end of the program; return its exit code."""
        end = time.monotonic() + PATIENCE_S
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < end, "it does not end"
            self._read(0.05)
        self._read(0.05)
        self.pid = 0
        return os.waitstatus_to_exitcode(ended[1])

    def _read(self, seconds: float) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other side any more.
            if select.select([self._fd], [], [], seconds)[0]:
                self.output += os.read(self._fd, 65536)


LEAVES_ALTERNATE_SCREEN: Final = "\x1b[?1049l"


@pytest.mark.parametrize("how", ["key", "signal"])
def test_the_terminal_is_as_it_was(served: Served, how: str) -> None:
    os.listdir(served.mountpoint)
    with Terminal(FUSEVOL, "top", **({"NO_COLOR": "1"} if how == "key" else {})) as terminal:
        text = terminal.await_text("(?s)ops/s.*  data")
        is_colored = re.search(r"\x1b\[(?:[0-9;]*;)?[34]8[;:]", text) is not None
        assert is_colored == (how == "signal")
        if how == "key":
            terminal.press("q")
        else:
            os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.end() == 0
        assert LEAVES_ALTERNATE_SCREEN in terminal.output.decode()


def test_batch_in_a_terminal_without_textual(served: Served) -> None:
    code = (
        "import sys; sys.modules['textual'] = None; sys.argv[0] = 'fusevol'\n"
        "from fusevol.cli.main import main; main()"
    )
    command = (sys.executable, "-c", code, "top")
    with Terminal(*command) as terminal:
        assert terminal.end() == 5
        assert b"pip install 'fusevol[top]'" in terminal.output
    options = ("--batch", "-n", "2", "--interval", "0.5", "--filter", "[RED]")
    with Terminal(*command, *options) as terminal:
        end = time.monotonic() + PATIENCE_S
        while b"[red]" not in terminal.output and time.monotonic() < end:
            (served.mountpoint / EVIL).touch()
            terminal._read(0.05)
        assert terminal.end() == 0
        lines = terminal.output.decode().removesuffix("\r\n").split("\r\n")
        assert all(line.isprintable() for line in lines)
        assert any(line.endswith(f"data:/{SHOWN}") for line in lines)
        assert sum("1 volume " in line for line in lines) == 2


def on_screen(app: Top) -> str:
    """What stands on the screen, without what it is drawn in."""
    return "\n".join(
        widget.render_line(y).text for widget in app.screen.walk_children(Widget)
        if widget.is_attached and not widget.children for y in range(widget.size.height)
    )  # fmt: skip


async def sees(pilot: Pilot[None], pattern: str) -> str:
    """Wait until something stands on the screen."""
    end = time.monotonic() + PATIENCE_S
    app = pilot.app
    assert isinstance(app, Top)
    while not re.search(pattern, text := on_screen(app)):
        assert time.monotonic() < end, f"no {pattern!r} in\n{text}"
        await asyncio.sleep(0.02)
    return text


@contextlib.contextmanager
def clients(volume: Path) -> Iterator[None]:
    """Somebody who uses the volume all the time."""
    code = (
        "import os, sys, time; os.chdir(sys.argv[1]); os.close(0)\n"
        "while True:\n"
        "  with open(sys.argv[2], 'w') as f: f.write('x' * 1000)\n"
        "  with open('plain') as f: f.read()\n"
        "  os.path.exists('none'); time.sleep(0.01)\n"
    )
    (volume / "plain").write_text("text")
    with subprocess.Popen([sys.executable, "-I", "-c", code, volume, EVIL]) as process:
        try:
            yield
        finally:
            process.kill()


def live(drive: Callable[[Top, Pilot[None]], Coroutine[Any, Any, None]]) -> None:
    """Have the live view driven by keys, on a small terminal."""

    async def run() -> None:
        app = Top(lambda _served: True, lambda _container: None, FRAME_S)
        async with app.run_test(size=(80, 24)) as pilot:
            await drive(app, pilot)
        assert app.error is None

    asyncio.run(asyncio.wait_for(run(), 3 * PATIENCE_S))


def test_keys(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()

    async def drive(app: Top, pilot: Pilot[None]) -> None:
        await _views(pilot)
        await _filter(pilot)
        await _sort(app, pilot)
        await _one_volume(app, pilot)
        await _pause_and_interval(app, pilot)
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await sees(pilot, "only names that contain a text")
        await pilot.press("q")
        assert not isinstance(app.screen, Help)

    with serve(other, "--name", "idle"), clients(served.mountpoint):
        live(drive)


async def _views(pilot: Pilot[None]) -> None:
    text = await sees(pilot, "[1-9][0-9]* ops/s")
    assert re.search(r"(?s)VOLUME.*\n .*  data *\n.*  idle", text)
    await pilot.press("2")
    assert re.search(r"OPERATION *\n", await sees(pilot, r"[1-9][0-9.]* +.*  write *\n"))
    await pilot.press("3")
    assert "data:/plain" in await sees(pilot, re.escape(f"data:/{SHOWN}"))
    await pilot.press("tab")
    await sees(pilot, r"PROCESS *\n(.*\n)*.*  [0-9]+ python")
    await pilot.press("5")
    await sees(pilot, r"CONTAINER *\n.*  host *\n")
    await pilot.press("shift+tab", "shift+tab")
    await sees(pilot, r"PATH *\n")


async def _filter(pilot: Pilot[None]) -> None:
    await pilot.press("slash", *"RED]", "enter")
    text = await sees(pilot, r"only RED\] ")
    assert SHOWN in text
    assert "plain" not in text
    await pilot.press("slash", *"[/b]")
    await sees(pilot, r"no name contains \[/b\]; Esc shows all")
    await pilot.press("escape")
    await sees(pilot, "data:/plain")


async def _sort(app: Top, pilot: Pilot[None]) -> None:
    await pilot.press("1")
    await sees(pilot, r"▼ ops/s .*\n .*  data *\n .*  idle")
    await pilot.press("r")
    await pilot.press("end", "r")
    await sees(pilot, r"▼ ops/s .*\n .*  data *\n .*  idle")
    marked = app.query_one(Table).marked
    assert marked is not None
    assert marked.identity["volume"] == "data"
    await pilot.press("home", "r", "right", "right", "right", "left", "r")
    await sees(pilot, r"▲read/s")
    header = app.query_one(Table)
    await pilot.click(header, offset=(3, 0))
    await sees(pilot, r"▼ ops/s")


async def _one_volume(app: Top, pilot: Pilot[None]) -> None:
    await pilot.press("down")
    await sees(pilot, r"(?s)idle: .*other.source\s+on\s.*level\s+all")
    await pilot.press("enter")
    await sees(pilot, r"\n? idle  0 ops/s")
    await pilot.press("escape")
    await sees(pilot, r"2 volumes")
    await pilot.press("home", "enter", "3")
    text = await sees(pilot, r"  /plain")
    assert "data:/" not in text
    await pilot.press("escape")
    assert app.query_one(Table).marked is not None


async def _pause_and_interval(app: Top, pilot: Pilot[None]) -> None:
    await pilot.press("space")
    held = await sees(pilot, "HELD")
    await asyncio.sleep(3 * FRAME_S)
    table = "\n".join(app.query_one(Table).render_line(y).text for y in range(4))
    assert table in held
    await pilot.press("2")
    await sees(pilot, r"  write *\n")
    await pilot.press("space", "1", "plus", "plus")
    await sees(pilot, "each 1 s")
    await pilot.press("minus")
    await sees(pilot, "each 0.5 s")


def test_a_volume_that_is_looked_into_goes(tmp_path: Path) -> None:
    async def drive(_app: Top, pilot: Pilot[None]) -> None:
        await sees(pilot, "0 volumes")
        await sees(pilot, "you serve no mounts")
        with serve(tmp_path, "--name", EVIL):
            await sees(pilot, re.escape(f"  {SHOWN}"))
            await pilot.press("enter")
            await sees(pilot, re.escape(f" {SHOWN}  "))
        await sees(pilot, "not mounted now")
        await pilot.press("escape")
        await sees(pilot, "you serve no mounts")

    live(drive)
    with pytest.raises(AssertionError):
        status_of(tmp_path / "volume")
