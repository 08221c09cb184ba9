"""Chained logs for tests: written by the writer itself, without a mount."""

import os
from collections.abc import Iterable
from pathlib import Path

from fusevol.options.config import MountConfig
from fusevol.options.log import LogOptions
from fusevol.proof import keys
from fusevol.proof.judges import PublicJudge, SecretJudge
from fusevol.proof.ledger import Head, Ledger, Mark
from fusevol.proof.verifier import Question, Report, verify
from fusevol.record.links import Links
from fusevol.record.record import AccessRecord
from fusevol.recording.opening import open_log
from fusevol.recording.writer import LogWriter


def writer(
    log: Path, volume: str = "v", *, chain: bool = True, cells: memoryview | None = None
) -> LogWriter:
    """Open a log as a worker does."""
    config = MountConfig("/source", "/mount", volume, str(log), logging=LogOptions(chain=chain))
    return open_log(config, cells)


def write(log: LogWriter, count: int, volume: str = "v") -> None:
    """Write records that differ in their numbers, times and offsets."""
    for number in range(count):
        record = AccessRecord(
            volume=volume, op="write", path=f"/file-{number}", ino=7, result="ok", uid=0, gid=0,
            pid=4711, comm="test", offset=4096 * number, size=4096, bytes_written=4096,
        )  # fmt: skip
        log.append(record, 0)


def rotate(log: LogWriter, number: int) -> Path:
    """Rotate a log as logrotate does, without compression."""
    target = Path(f"{log.path}.{number}")
    os.rename(log.path, target)
    log.reopen()
    return target


def verified(
    log: Path, *, volume: str = "", since: int = 0, processes: int = 1, rotated: bool = True
) -> Report:
    """Verify a log with this host's key."""

    def kept() -> tuple[Head | None, list[Mark]]:
        return Ledger(str(log)).head(), Ledger(str(log)).marks()

    question = Question([str(log)], rotated, volume, since)
    return verify(question, SecretJudge(Links(keys.load().links)), kept, processes)


def verified_publicly(log: Path) -> Report:
    """Verify a log with the public key alone."""
    judge = PublicJudge(keys.load().public())
    return verify(Question([str(log)]), judge, lambda: (None, []), 1)


def lines_of(files: Iterable[Path]) -> list[bytes]:
    """Return the lines of files, one after the other, each with its newline."""
    return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
