"""Numbers go on and losses are told, whatever becomes of a log's files and of who writes it."""

import array
import gzip
import logging
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from fusevol.errors import FusevolError
from fusevol.model import OnLogFailure
from fusevol.options.config import MountConfig
from fusevol.options.log import LogFormat, LogOptions
from fusevol.record.record import AccessRecord, decode
from fusevol.recording import unlinked
from fusevol.recording import writer as writer_module
from fusevol.recording.opening import open_log
from fusevol.recording.writer import LogWriter
from fusevol.recovery.log_cells import FD, STATE_FD
from tests.log.chained import lines_of, verified, write, writer
from tests.served import fusevol, kill_mount, needs_root, serve, status_of, stay, wait_until


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    # Each record looks whether the file has a name, and a failure is tried again at once.
    monkeypatch.setattr(writer_module, "_LOOK_NS", 0)
    monkeypatch.setattr(writer_module, "_RETRY_NS", 0)
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "data.log"


def records(*files: Path) -> list[AccessRecord]:
    return [decode(line) for line in lines_of(files)]


def numbers(*files: Path) -> list[int]:
    return [record.seq for record in records(*files)]


def session(log: Path, count: int = 10, *, chain: bool = False) -> None:
    one = writer(log, chain=chain)
    one.catch_up()
    write(one, count)
    one.close()


def kill(one: LogWriter) -> None:
    """Let go of a writer as the end of all processes does."""
    os.close(one._file.fd)
    one._state.close()


def fill_disk(one: LogWriter) -> int:
    """Let nothing be written any more; return what writes again, if it is put in place."""
    aside = os.dup(one._file.fd)
    with open("/dev/full", "wb") as device:
        os.dup2(device.fileno(), one._file.fd)
    return aside


# --- files that are gone ---


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_behind_files_that_were_moved_away(log: Path, chain: bool, killed: bool) -> None:
    away = [log.parent / "away.1", log.parent / "away.2"]
    one = writer(log, chain=chain)
    write(one, 10)
    log.rename(away[0])
    one.reopen()
    write(one, 10)
    one.keep()
    if killed:
        kill(one)
    else:
        one.close()
    log.rename(away[1])
    session(log, chain=chain)
    found = numbers(*away, log)
    assert found == list(range(1, len(found) + 1))
    assert [one for one in records(*away, log) if one.op == "gap"] == []
    if chain:
        away[0].rename(f"{log}.2")
        away[1].rename(f"{log}.1")
        assert verified(log).finding is None


@pytest.mark.parametrize("form", list(LogFormat))
def test_in_any_format(log: Path, form: LogFormat) -> None:
    config = MountConfig("/source", "/mount", "v", str(log), logging=LogOptions(format=form))
    for expected in (1, 4, 7):
        one = open_log(config)
        assert one.next_seq == expected
        write(one, 3)
        one.close()
        log.unlink()


def test_what_is_older_than_the_log_does_not_count(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 5)
    one.keep()
    write(one, 5)
    kill(one)
    session(log)
    assert numbers(log) == list(range(1, 21))


def test_records_that_a_power_failure_took_are_told(log: Path) -> None:
    session(log)
    log.write_bytes(b"".join(lines_of([log])[:7]))
    for _ in range(2):
        session(log)
    found = records(log)
    assert [one.seq for one in found] == [*range(1, 8), *range(11, 32)]
    gap = found[7]
    assert (gap.op, gap.lost, gap.since) == ("gap", 3, None)
    assert gap.reason == "records at the end of the log are gone"
    assert [one.op for one in found].count("gap") == 1


@pytest.mark.parametrize("content", ["copytruncate", "empty", "another"])
def test_a_file_that_was_replaced_is_no_loss(log: Path, content: str) -> None:
    session(log)
    if content == "copytruncate":
        shutil.copy(log, f"{log}.1")
    kept = lines_of([log])[3:5] if content == "another" else []
    log.write_bytes(b"".join(kept))
    session(log)
    assert [one.op for one in records(log)].count("gap") == 0
    assert numbers(log)[len(kept) :] == list(range(11, 21))


def test_without_a_state_directory_the_files_count(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", "/dev/null/state")
    session(log)
    (said,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "cannot be saved in" in said.getMessage()
    log.rename(f"{log}.1")
    session(log)
    assert numbers(log) == list(range(11, 21))


def test_damage_to_what_is_kept_is_said_and_the_files_count(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session(log)
    (kept,) = (tmp_path / "state/logs").glob("*.numbers")
    assert str(log).encode() in kept.read_bytes()
    kept.write_bytes(b"x" * 600)
    session(log)
    assert numbers(log) == list(range(1, 21))
    assert "damaged" in caplog.text
    log.unlink()
    session(log)
    assert numbers(log) == list(range(21, 31))


def test_one_writer_also_after_the_log_was_renamed(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 3)
    log.rename(f"{log}.1")
    with pytest.raises(FusevolError, match="in use by another mount"):
        writer(log, chain=False)
    assert not log.exists()
    one.close()
    session(log)
    assert numbers(log) == list(range(4, 14))


# --- losses ---


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_a_loss_outlives_the_mount(log: Path, chain: bool, killed: bool) -> None:
    one = writer(log, chain=chain)
    write(one, 5)
    os.close(fill_disk(one))
    write(one, 7)
    if killed:
        kill(one)
    else:
        one.close()
    for _ in range(2):
        one = writer(log, chain=chain)
        one.event(AccessRecord(op="mount", result="ok"))
        one.close()
    found = records(log)
    assert [one.op for one in found if one.op != "checkpoint"][5:] == ["gap", "mount", "mount"]
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    assert (found[5].lost, found[5].reason) == (7, "No space left on device")
    assert found[4].time <= (found[5].since or "") <= found[5].time
    if chain:
        assert verified(log).finding is None


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_loss_is_told_once(log: Path, tmp_path: Path, taken_over: bool) -> None:
    cells = memoryview(array.array("Q", bytes(320)))
    one = writer(log, chain=False, cells=cells)
    write(one, 5)
    aside = fill_disk(one)
    write(one, 7)
    os.dup2(aside, one._file.fd)
    os.close(aside)
    (kept,) = (tmp_path / "state/logs").glob("*.numbers")
    before, cells_before = kept.read_bytes(), cells.tolist()
    one.catch_up()
    # It was killed as soon as it had written the gap.
    kept.write_bytes(before)
    for index, value in enumerate(cells_before):
        cells[index] = value
    if not taken_over:
        kill(one)
    two = writer(log, chain=False, cells=cells if taken_over else None)
    assert (two.losses.count, two.next_seq) == (0, 7)
    write(two, 1)
    two.close()
    assert [one.op for one in records(log)].count("gap") == 1


# --- a log that cannot be opened when all that had it open was killed ---


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("after", ["moved back", "begun anew"])
def test_a_mount_goes_on_although_its_log_cannot_be_opened(
    log: Path, chain: bool, after: str
) -> None:
    one = writer(log, chain=chain)
    write(one, 10)
    away = log.parent.rename(log.parent.with_name("away"))
    one = _revived(one, chain)
    write(one, 3)
    # Its worker dies, and everything once more.
    one = _revived(writer(log, chain=chain, cells=one._cells), chain)
    write(one, 4)
    assert one.losses.count == 7
    if after == "moved back":
        away.rename(log.parent)
    else:
        log.parent.mkdir()
    one.catch_up()
    write(one, 2)
    one.close()
    found = [record for record in records(log) if record.op != "checkpoint"]
    first = 1 if after == "moved back" else 11
    assert [record.seq for record in found] == list(range(first, 14))
    assert (found[-3].op, found[-3].lost) == ("gap", 7)
    assert found[-3].reason == "No such file or directory"
    if chain:
        assert verified(log, since=first).finding is None


def test_a_log_can_be_written_again_before_a_mount_is_revived(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 10)
    one._look(0)
    shutil.rmtree(log.parent)
    write(one, 7)
    log.parent.mkdir()
    one = _revived(one, chain=False)
    one.catch_up()
    write(one, 2)
    one.close()
    assert numbers(log)[-3:] == [11, 12, 13]
    assert records(log)[-3].lost == 7


def test_under_deny_a_mount_without_its_log_refuses(log: Path) -> None:
    one = LogWriter(str(log), "v", OnLogFailure.DENY)
    write(one, 1)
    away = log.parent.rename(log.parent.with_name("away"))
    cells = _left_by_the_killed(one)
    one = LogWriter(str(log), "v", OnLogFailure.DENY, cells)
    assert one.admit is not None
    with pytest.raises(OSError, match="access log cannot be written"):
        one.admit(0)
    away.rename(log.parent)
    one.admit(0)
    write(one, 1)
    one.close()
    assert numbers(log) == [1, 2]


def test_a_mount_whose_log_was_taken_by_another_goes_on(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 2)
    cells = _left_by_the_killed(one)
    other = writer(log, chain=False)
    one = writer(log, chain=False, cells=cells)
    write(one, 3)
    assert one.losses.count == 3
    other.close()
    one.catch_up()
    one.close()
    assert numbers(log) == [1, 2, 3]


def _revived(one: LogWriter, chain: bool) -> LogWriter:
    return writer(Path(one.path), chain=chain, cells=_left_by_the_killed(one))


def _left_by_the_killed(one: LogWriter) -> memoryview:
    if one._file.fd >= 0:
        os.close(one._file.fd)
    one._state.close()
    one._cells[FD] = one._cells[STATE_FD] = 0
    return one._cells


@needs_root
def test_clients_of_a_killed_mount_do_not_wait_for_its_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    log = logs / "access.log"
    with stay(tmp_path, log=log) as mount:
        logs.rename(tmp_path / "away")
        before = status_of(mount.mountpoint)
        kill_mount(before["pid"], before["worker"])
        (mount.mountpoint / "a").mkdir()
        wait_until(lambda: mount.status()["pid"] != before["pid"], "the entry of the next keeper")
        told = status_of(mount.mountpoint)["log_message"]
        assert f"cannot open access log {log}: its directory does not exist" in told
        (tmp_path / "away").rename(logs)
        fusevol("reload", "--logs", mount.mountpoint)
        (mount.mountpoint / "b").mkdir()
    found = records(log)
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    assert [record.reason for record in found if record.op == "gap"] == [os.strerror(2)]
    assert "/b" in [record.path for record in found]


# --- a log that is deleted while it is written ---


@pytest.mark.parametrize("chain", [False, True])
def test_what_a_compressor_has_not_read_is_brought_over(log: Path, chain: bool) -> None:
    one = writer(log, chain=chain)
    write(one, 10)
    log.rename(f"{log}.1")
    write(one, 10)
    packed = Path(f"{log}.1.gz")
    packed.write_bytes(gzip.compress(Path(f"{log}.1").read_bytes()))
    write(one, 5)
    Path(f"{log}.1").unlink()
    write(one, 5)
    one.close()
    Path(f"{log}.1").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    found = numbers(Path(f"{log}.1"), log)
    assert found == list(range(1, 32 if chain else 31))
    if chain:
        assert verified(log).finding is None


def test_what_was_written_since_is_brought_over(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = writer(log, chain=False)
    write(one, 10)
    one._look(0)
    monkeypatch.setattr(writer_module, "_LOOK_NS", 1 << 60)
    one._look(0)
    log.unlink()
    write(one, 5)
    one.reopen()
    write(one, 5)
    one.close()
    assert numbers(log) == list(range(11, 21))
    assert "was deleted while in use; started a new file with the 5 records" in caplog.text


def test_what_cannot_be_brought_over_is_told(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = writer(log, chain=False)
    write(one, 10)
    one._look(0)
    log.unlink()
    monkeypatch.setattr(one, "_look_ns", 1 << 60)
    write(one, 5)
    wrote = 0

    def write_whole(fd: int, line: bytes) -> None:
        nonlocal wrote
        wrote += 1
        if wrote > 2:
            raise OSError(28, "No space left on device")
        os.write(fd, line)

    monkeypatch.setattr(unlinked, "_write_whole", write_whole)
    one.reopen()
    one.catch_up()
    write(one, 1)
    one.close()
    found = records(log)
    assert [one.seq for one in found] == [11, 12, 16, 17]
    assert (found[2].op, found[2].lost, found[2].reason) == ("gap", 3, "No space left on device")


def test_a_directory_that_is_gone(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 10)
    one._look(0)
    shutil.rmtree(log.parent)
    write(one, 7)
    assert one.losses.count == 7
    # And by the next worker, before there is a directory again.
    two = writer(log, chain=False, cells=one._cells)
    write(two, 2)
    assert two.losses.count == 9
    log.parent.mkdir()
    two.catch_up()
    write(two, 3)
    two.close()
    found = records(log)
    assert [one.seq for one in found] == [11, 12, 13, 14]
    assert (found[0].op, found[0].lost, found[0].reason) == ("gap", 9, "No such file or directory")


def test_under_deny_nothing_goes_on_without_a_file(log: Path) -> None:
    one = LogWriter(str(log), "v", OnLogFailure.DENY)
    assert one.admit is not None
    one.admit(0)
    write(one, 1)
    one._look(0)
    shutil.rmtree(log.parent)
    for _ in range(3):
        with pytest.raises(OSError, match="access log cannot be written"):
            one.admit(0)
    log.parent.mkdir()
    one.admit(0)
    write(one, 1)
    one.close()
    assert numbers(log) == [2]


@pytest.mark.parametrize("chain", [False, True])
def test_a_deleted_log_can_be_opened_anew(
    log: Path, chain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = writer(log, chain=chain)
    write(one, 3)
    log.unlink()
    # The checkpoint that is written first finds that the file is gone, and begins another.
    one.reopen()
    assert not [said for said in caplog.messages if "in use by" in said]
    write(one, 3)
    one.close()
    assert numbers(log)[-1] >= 6
    assert numbers(log) == list(range(numbers(log)[0], numbers(log)[-1] + 1))


def test_a_renamed_log_is_written_to_as_long_as_it_has_a_name(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 3)
    log.rename(f"{log}.1")
    write(one, 3)
    one = writer(log, chain=False, cells=one._cells)
    write(one, 3)
    assert not log.exists()
    one.close()
    assert numbers(Path(f"{log}.1")) == list(range(1, 10))


@needs_root
def test_a_file_system_that_is_mounted_above_the_log(log: Path) -> None:
    one = writer(log, chain=False)
    write(one, 3)
    subprocess.run(["mount", "-t", "tmpfs", "none", log.parent], check=True)
    try:
        write(one, 3)
        assert numbers(log) == [4, 5, 6]
    finally:
        subprocess.run(["umount", log.parent], check=False)
        write(one, 1)
        one.close()
        subprocess.run(["umount", "-l", log.parent], check=False, capture_output=True)
    assert numbers(log)[:3] == [1, 2, 3]


# --- on a mount ---


@needs_root
def test_a_mount_tells_of_its_log(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    options = ("-o", "on_log_failure=deny")
    with serve(tmp_path, *options, log=logs / "access.log") as mount:
        (mount.mountpoint / "a").mkdir()
        shutil.rmtree(logs)
        wait_until(lambda: _refuses(mount.mountpoint / "a"), "a refusal")
        with pytest.raises(OSError, match="Input/output error"):
            (mount.mountpoint / "b").mkdir()
        said = fusevol("reload", "--logs", mount.mountpoint, check=False)
        assert said.returncode == 1
        why = f"cannot open access log {logs}/access.log: its directory does not exist; create it"
        assert said.stderr == f"fusevol: {mount.mountpoint}: {why}; records are not in any file\n"
        assert why in status_of(mount.mountpoint)["log_message"]
        assert why in fusevol("status").stdout
        logs.mkdir()
        fusevol("reload", "--logs", mount.mountpoint)
        (mount.mountpoint / "c").mkdir()
        told = status_of(mount.mountpoint)["log_message"]
        assert told.startswith("the log was deleted while in use, noticed ")
        assert told.endswith("; a new file was started")
        names = {record.get("path") for record in mount.records() if record["op"] == "mkdir"}
        assert "/c" in names
        assert not (mount.source / "b").exists()
        mount.log.rename(logs / "access.log.1")
        assert mount.log.exists() is False
        fusevol("reload", "--logs")
        assert mount.log.exists()


def _refuses(directory: Path) -> bool:
    try:
        directory.chmod(0o755)
    except OSError:
        return True
    return False


@needs_root
def test_a_mount_that_ended_unheard_is_told_of_by_the_next(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        with serve(tmp_path, log=disk / "access.log") as mount:
            with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(b"x" * 4096)
            for number in range(200):
                (mount.mountpoint / f"d{number}").mkdir()
        made = [one.get("path") for one in mount.records() if one["op"] == "mkdir"]
        assert len(made) < 200
        (disk / "filler").unlink()
        with serve(tmp_path, log=disk / "access.log") as mount:
            pass
        (gap,) = [one for one in mount.records() if one["op"] == "gap"]
        assert gap["lost"] >= 200 - len(made)
        assert gap["reason"] == "No space left on device"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
