"""Which files are those of a log: its own under any name that rotation gives, no neighbour's."""

import gzip
from pathlib import Path

import pytest

from fusevol.logs.log_end import end_of_log
from fusevol.logs.log_files import rotated, rotated_by_fusevol
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import opened
from fusevol.options.log import LogFormat
from fusevol.record.formats import encoder
from fusevol.record.record import AccessRecord
from tests.log.chained import verified, write, writer

ROTATED = (
    ".1", ".2.gz", ".17", "-20261124", "-20261124-1764000000.zst", "-20261124T103000.123",
    "-20261124T103000.124.zst", ".2026-11-24_10:30",
)  # fmt: skip
BESIDE = ("-web", "2", "s", ".old", ".bak.1", "-web.1", "", ".1.lock~", "-20261124T103000.123.x.y")


def lines(volume: str, first: int, last: int, form: str = LogFormat.JSON) -> bytes:
    encode = encoder(form)
    return b"".join(
        encode(
            AccessRecord(
                time=f"2026-11-24T10:00:{seq % 60:02d}.000000Z", seq=seq, volume=volume, op="read",
                path="/a", result="ok", us=5,
            )
        ) + b"\n"
        for seq in range(first, last + 1)
    )  # fmt: skip


def shown(log: Path) -> list[int]:
    """The numbers of all records that are shown for a log."""
    with opened([str(log)], with_rotated=True) as sections:
        return [
            one.seq
            for section in sections
            for batch in section.batches(Skipped())
            for one in batch.records
            if one is not None
        ]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder / "data.log"


def test_names(log: Path) -> None:
    for ending in (*ROTATED, *BESIDE):
        Path(f"{log}{ending}").write_bytes(b"")
    (log.parent / "data.log.3").mkdir()
    extended = ["data-20261124.log.gz", "data.1.log", "data-2.log"]
    for name in (*extended, "data-2.log.1", "data1.log", "data.log.log", "data.x.log"):
        (log.parent / name).write_bytes(b"")
    assert rotated(str(log)) == sorted(
        [f"{log}{ending}" for ending in ROTATED] + [str(log.parent / name) for name in extended]
    )
    assert rotated_by_fusevol(str(log)) == [
        f"{log}-20261124T103000.123", f"{log}-20261124T103000.124.zst"
    ]  # fmt: skip


@pytest.mark.parametrize("neighbour", ["data.log-web", "data.log-2", "data-2.log", "data.log.7"])
@pytest.mark.parametrize("chain", [False, True])
def test_a_new_log_beside_that_of_another_volume(log: Path, neighbour: str, chain: bool) -> None:
    other = writer(log.with_name(neighbour), "data-2", chain=chain)
    write(other, 11, "data-2")
    other.close()
    one = writer(log, "data", chain=chain)
    assert one.next_seq == 1
    write(one, 3, "data")
    one.close()
    assert shown(log) == list(range(1, 5 if chain else 4))
    if chain:
        report = verified(log)
        assert (report.finding, report.records) == (None, 4)


@pytest.mark.parametrize("form", list(LogFormat))
def test_numbers_go_on_behind_the_newest_of_its_own_files(log: Path, form: LogFormat) -> None:
    log.with_name("data.2.log.gz").write_bytes(gzip.compress(lines("data", 1, 10, form)))
    log.with_name("data.1.log").write_bytes(lines("data", 11, 20, form))
    # Times of files prove nothing: the older one was copied here last.
    log.with_name("data.3.log").write_bytes(lines("other", 21, 99, form))
    log.with_name("data.log-4").write_bytes(b"no record\n")
    log.with_name("data.log-5").write_bytes(b"")
    log.with_name("data.log-6.gz").write_bytes(b"\x1f\x8b damaged")
    assert end_of_log(str(log), volume="data").seq == 20
    log.write_bytes(b"")
    assert end_of_log(str(log), volume="data").seq == 20
    log.write_bytes(lines("data", 21, 30, form))
    assert end_of_log(str(log), volume="data").seq == 30
    assert shown(log) == list(range(1, 31))


def test_a_log_that_is_empty_is_of_the_volume_that_its_rotated_files_name(log: Path) -> None:
    log.write_bytes(b"")
    log.with_name("data-2.log").write_bytes(lines("data-2", 1, 50))
    assert shown(log) == []
    log.with_name("data.log.1").write_bytes(lines("data", 1, 3))
    log.with_name("data.log-2").write_bytes(lines("data-2", 1, 50))
    log.with_name("data.log.2.gz").write_bytes(gzip.compress(lines("data", 4, 5)))
    assert shown(log) == [1, 2, 3, 4, 5]
