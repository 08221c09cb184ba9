import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from fusevol.cli.log.group import log as log_command
from fusevol.cli.main import cli
from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UsageError
from fusevol.logs import lines
from fusevol.record.record import AccessRecord, encode
from tests.patience import PATIENCE_S

FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]
ENVIRONMENT: Final = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "PYTHONUNBUFFERED": "",
}


def line(seq: int, op: str = "read", path: str = "/a.txt", volume: str = "data") -> bytes:
    record = AccessRecord(
        time=f"2026-11-23T10:00:{seq:02d}.000000Z", seq=seq, volume=volume, op=op, path=path,
        result="ok", us=5, uid=1000, pid=4711,
    )  # fmt: skip
    return encode(record) + b"\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "data.log"
    path.write_bytes(b"".join(line(seq, ("read", "write")[seq % 2]) for seq in range(1, 31)))
    return path


def run(*arguments: object, stdin: bytes = b"", env: Mapping[str, str | None] = {}) -> Result:
    command = ["tail", *map(str, arguments)]
    result = CliRunner().invoke(log_command, command, input=stdin, env={"NO_COLOR": None, **env})
    if isinstance(result.exception, FusevolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def shown(*arguments: object, stdin: bytes = b"") -> list[int]:
    output = run("--json", *arguments, stdin=stdin).stdout
    return [json.loads(text)["seq"] for text in output.splitlines()]


def test_ten_records_unless_told_otherwise(log: Path) -> None:
    assert shown(log) == list(range(21, 31))
    assert shown("-n", 3, log) == [28, 29, 30]
    assert shown("-n", 0, log) == []
    assert shown("-n", 10**30, log) == list(range(1, 31))
    assert shown("-n", "all", log) == list(range(1, 31))


@pytest.mark.parametrize("count", ["-1", "ten", "1.5", "", "٣"])
def test_count_that_is_none(log: Path, count: str) -> None:
    with pytest.raises(UsageError, match=r"--lines: invalid number .*: expected"):
        run("-n", count, log)


def test_json_is_the_log_itself(tmp_path: Path) -> None:
    path = tmp_path / "foreign.log"
    text = b'{ "time":"t", "us":1,\t"seq":7,"op":"read","result":"ok","new":{"\xc3\xa9":[1.50]} }\n'
    path.write_bytes(text + line(8))
    assert run("--json", path).stdout_bytes == text + line(8)
    assert run("--json", "-n", "all", path).stdout_bytes == text + line(8)


def test_text(log: Path) -> None:
    output = run("-n", 2, log).stdout
    assert [text.split()[2:5] for text in output.splitlines()] == [
        ["write", "/a.txt", "ok"],
        ["read", "/a.txt", "ok"],
    ]


def test_several_logs_are_one(log: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.log"
    newer.write_bytes(line(31) + line(32))
    assert shown("-n", 4, log, newer) == [29, 30, 31, 32]
    assert shown("-n", 1, log, newer) == [32]
    assert shown("-n", "all", log, newer) == list(range(1, 33))
    assert shown("-n", 3, "-", newer, stdin=line(5) + line(6)) == [6, 31, 32]


@pytest.mark.parametrize("count", ["2", "all"])
def test_filters(log: Path, count: str) -> None:
    with log.open("ab") as file:
        file.write(line(40, "unlink", "/etc/passwd", "other"))

    def last_two(*arguments: str) -> list[int]:
        return shown("-n", count, *arguments, log)[-2:]

    assert last_two("--op", "write") == [27, 29]
    assert last_two("--op", "write", "--op", "unlink") == [29, 40]
    assert last_two("--path", "/etc") == [40]
    assert last_two("--path", "*.txt") == [29, 30]
    assert last_two("--result", "ok") == [30, 40]
    assert last_two("--result", "failed") == []
    assert last_two("--uid", "0") == []
    assert last_two("--uid", "1000", "--pid", "4711", "--container", "-") == [30, 40]
    assert last_two("--volume", "other") == [40]
    assert last_two("--until", "2026-11-23T10:00:03Z") == [1, 2]
    assert last_two("--since", "2026-11-23T10:00:30Z") == [30, 40]
    assert last_two("--since", "2026-11-23T10:00:29Z", "--op", "read") == [30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "soon"], "--since: invalid time 'soon': expected one such as"),
        (["--until", "soon"], "--until: invalid time 'soon': expected one such as"),
        (["--result", "fine"], "--result: invalid result 'fine': expected ok, failed"),
        (["--path", ""], "--path: empty pattern; use `/`"),
        (["-f", "other.log"], "--follow: only one log can be followed; give one FILE"),
        (["--mount", "/mnt"], "--mount already selects a log; leave out FILE"),
    ],
)
def test_wrong_usage(log: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        run(*arguments, log)
    assert str(error.value).startswith(message)


def test_operations_in_one_word_and_in_several(log: Path) -> None:
    both = shown("-n", "all", "--op", "read", "--op", "write", log)
    assert len(both) == 30
    assert shown("-n", "all", "--op", "read,write", log) == both
    assert shown("-n", "all", "--op", "unlink,write", log) == both[::2]


def test_unknown_operation(log: Path) -> None:
    result = CliRunner().invoke(log_command, ["tail", "--op", "delete", str(log)])
    assert result.exit_code == 2
    assert "'delete' is not one of" in result.output
    result = CliRunner().invoke(log_command, ["tail", "--op", "read,writee", str(log)])
    assert result.exit_code == 2
    assert "'writee' is unknown; did you mean write?" in result.output


def test_no_log_at_all() -> None:
    with pytest.raises(UsageError, match="give FILE, --volume NAME or --mount MOUNTPOINT"):
        run()


@pytest.mark.parametrize("option", ["-n1", "-nall", "-f"])
def test_missing_log(tmp_path: Path, option: str) -> None:
    with pytest.raises(NotFoundError, match=r"none\.log: no such file"):
        run(option, tmp_path / "none.log")


@pytest.mark.parametrize("option", ["-n1", "-nall", "-f"])
def test_log_of_somebody_else(log: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    # Root may read everything, so that a file without any permission would not do.
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(lines, "open", refuse, raising=False)
    with pytest.raises(NotPermittedError, match="permission denied; run as root"):
        run(option, log)


@pytest.fixture
def registry(log: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str | None]]:
    """What the registry was asked for: (mount point, volume)."""
    asked = []

    def find_log(mountpoint: str | None, volume: str | None) -> str:
        asked.append((mountpoint, volume))
        return str(log)

    monkeypatch.setattr("fusevol.server.log_places.find_log", find_log)
    return asked


def test_log_of_a_mount(registry: list[tuple[str | None, str | None]]) -> None:
    assert shown("-n1", "--mount", "/mnt") == [30]
    assert registry == [("/mnt", None)]


def test_log_of_a_volume(registry: list[tuple[str | None, str | None]]) -> None:
    assert shown("-n1", "--volume", "data") == [30]
    assert registry == [(None, "data")]


def test_mount_and_volume(registry: list[tuple[str | None, str | None]]) -> None:
    with pytest.raises(UsageError, match="leave out FILE and --volume"):
        run("--volume", "data", "--mount", "/mnt")
    assert registry == []


def test_skipped_lines_are_told_once(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"\x1b[31mnonsense\n" + line(31) + b'{"seq":')
    for count in ("all", "5"):
        result = run("-n", count, "--json", log)
        assert result.stderr.startswith(f"fusevol: 2 lines skipped, first at line 31 of {log}: ")
        assert result.stderr.count("\n") == 1
        assert "\x1b" not in result.stderr
    assert run("-n1", log).stderr.startswith("fusevol: 1 line skipped, first at line 33 of ")
    wrong_type = line(1).replace(b'"seq":1', b'"seq":{"a":"x"}')
    assert run("-", stdin=wrong_type).stderr.endswith("Expected `int`, got `object` - at `$.seq`\n")
    assert "first at line 1 of standard input: " in run("-", stdin=b"x\n").stderr


@pytest.mark.parametrize(
    ("arguments", "env", "colored"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
    ],
)
def test_color_elsewhere_than_on_a_terminal(
    log: Path, arguments: list[str], env: dict[str, str], colored: bool
) -> None:
    result = run(*arguments, log, env=env)
    assert (b"\x1b[33m" in result.stdout_bytes) == colored


def on_terminal(*arguments: object, env: dict[str, str]) -> bytes:
    ours, theirs = pty.openpty()
    environment = {name: text for name, text in ENVIRONMENT.items() if name != "NO_COLOR"}
    command = [*FUSEVOL, "log", "tail", *map(str, arguments)]
    done = subprocess.run(
        command, stdout=theirs, env=environment | env, check=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    os.close(theirs)
    output = b""
    try:
        while block := os.read(ours, 65536):
            output += block
    except OSError:
        pass  # EIO: nobody holds the other side any more.
    os.close(ours)
    return output


def test_color_on_a_terminal(log: Path) -> None:
    assert b"\x1b[33m" in on_terminal("-n1", "--op", "write", log, env={})
    assert b"\x1b" not in on_terminal("-n1", "--op", "write", log, env={"NO_COLOR": "1"})
    assert b"\x1b" not in on_terminal("-n1", "--op", "write", "--color=never", log, env={})


def test_names_cannot_steer_a_terminal(log: Path) -> None:
    name = "/\x1b]0;x\x07\x9b31m\u202e"
    log.write_bytes(line(1, path=name))
    text = on_terminal("--color=never", log, env={}).decode()
    records = on_terminal("--json", log, env={}).decode()
    for output in (text, records):
        assert output.endswith("\r\n")
        assert output.removesuffix("\r\n").isprintable()
    assert json.loads(records)["path"] == name
    assert run("--json", log).stdout_bytes == line(1, path=name)


@pytest.fixture
def following(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [*FUSEVOL, "log", "tail", "-f", "-n2", "--json", str(log)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def next_seqs(process: subprocess.Popen[bytes], count: int) -> list[int]:
    assert process.stdout
    return [json.loads(process.stdout.readline())["seq"] for _ in range(count)]


def test_follow_across_rotation_until_interrupted(
    log: Path, following: subprocess.Popen[bytes]
) -> None:
    assert next_seqs(following, 2) == [29, 30]
    with log.open("ab") as file:
        file.write(line(31))
    assert next_seqs(following, 1) == [31]
    log.rename(log.with_suffix(".log.1"))
    log.write_bytes(line(32) + b"nonsense\n" + line(33))
    assert next_seqs(following, 2) == [32, 33]
    following.send_signal(signal.SIGINT)
    output, errors = following.communicate(timeout=PATIENCE_S)
    assert following.returncode == 130
    assert output == b""
    assert errors.strip().startswith(b"fusevol: 1 line skipped, first at line 2 of ")
    assert errors.strip().count(b"\n") == 0


def test_follow_ends_when_nobody_listens(log: Path, following: subprocess.Popen[bytes]) -> None:
    assert next_seqs(following, 2) == [29, 30]
    assert following.stdout
    following.stdout.close()
    with log.open("ab") as file:
        file.write(line(31))
    assert following.wait(PATIENCE_S) == 1
    assert following.stderr
    assert following.stderr.read() == b""


def test_head_of_a_long_log(log: Path) -> None:
    log.write_bytes(b"".join(line(seq % 60) for seq in range(100_000)))
    with subprocess.Popen(
        [*FUSEVOL, "log", "tail", "-nall", str(log)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr.read() == b""


def completions(arguments: list[str], incomplete: str) -> list[str]:
    complete = ShellComplete(cli, {}, "fusevol", "_FUSEVOL_COMPLETE")
    return [item.value for item in complete.get_completions(arguments, incomplete)]


def test_completion() -> None:
    assert completions(["log", "tail", "--op"], "re") == [
        "readlink", "rename", "read", "release", "readdir", "releasedir", "removexattr", "restart",
    ]  # fmt: skip
    assert completions(["log", "tail", "--result"], "ENO")[:2] == ["ENOANO", "ENOBUFS"]
    assert completions(["log", "tail", "--result"], "f") == ["failed"]
    assert completions(["log", "tail", "--since"], "y") == ["yesterday"]
    assert completions(["log", "tail", "-n"], "a") == ["all"]
    assert "--container" in completions(["log", "tail", "--since", "nonsense"], "--c")


def test_help_teaches() -> None:
    output = CliRunner().invoke(cli, ["log", "tail", "--help"]).output
    assert sum("fusevol log tail " in text for text in output.splitlines()) >= 4
    assert max(map(len, output.splitlines())) <= 88
