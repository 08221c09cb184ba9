"""The region: its texts, its version, and that each restart is told once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusevol.errors import FusevolError
from fusevol.model import OnLogFailure
from fusevol.record.record import OK, AccessRecord, decode
from fusevol.recording.writer import LogWriter
from fusevol.recovery.region import (
    CONFIG,
    FUSE_FD,
    INIT,
    JOURNAL,
    LOG_FD,
    NOTES_TOLD,
    ROOT_FD,
    WORD,
    Note,
    Region,
)
from tests.unit.dying import Died, DyingWriter
from tests.unit.regions import new_region


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


def test_texts_are_kept_whole(region: Region) -> None:
    texts = {CONFIG: os.urandom(65536 - WORD), INIT: os.urandom(65536 - WORD)}
    assert region.text(INIT) == b""
    for which, text in texts.items():
        region.put_text(which, text)
    region.words[JOURNAL] = 1
    successor = Region.attach(region.fd)
    assert {which: successor.text(which) for which in texts} == texts
    with pytest.raises(FusevolError, match="64 KiB"):
        region.put_text(CONFIG, bytes(65536))


def test_the_state_of_another_version_is_refused(region: Region) -> None:
    region.words[1] += 1
    with pytest.raises(FusevolError, match="another version"):
        Region.attach(region.fd)


def test_something_else_is_no_state() -> None:
    fd = os.memfd_create("other")
    try:
        with pytest.raises(FusevolError, match="another version"):
            Region.attach(fd)
        os.ftruncate(fd, os.fstat(fd).st_size + 4096)
        with pytest.raises(FusevolError, match="another version"):
            Region.attach(fd)
    finally:
        os.close(fd)


def test_descriptors_are_kept(region: Region) -> None:
    for number, cell in enumerate((FUSE_FD, ROOT_FD, LOG_FD)):
        assert region.descriptor(cell) == -1
        region.set_descriptor(cell, number)
        assert Region.attach(region.fd).descriptor(cell) == number


def test_an_empty_state_takes_little_memory(region: Region) -> None:
    assert region.resident_bytes() <= 8192


@pytest.mark.parametrize("reason", ["killed", "", "x" * 300, "\u00e4" * 200, "\udcff"])
def test_reasons_are_told_as_far_as_there_is_room(region: Region, reason: str) -> None:
    region.add_restart(reason)
    told = region.note(0).reason
    assert len(told.encode()) <= 258
    assert told[:100] == reason.encode(errors="replace").decode()[:100]


def _tell(region: Region, log: LogWriter, dying: DyingWriter) -> None:
    """What a worker does when it takes over, as fusevol.fuse.session does it."""
    Region.settle_telling(dying.region(), log.next_seq - 1)
    for number in Region.untold(dying.region()):
        Region.telling(dying.region(), number, log.next_seq)
        dying.instant()
        log.event(AccessRecord(op="restart", result=OK, reason=region.note(number).reason))
        dying.words[NOTES_TOLD] = number + 1


_NEVER = 1 << 30


@pytest.mark.parametrize("restarts", [1, 3, 70])
def test_each_restart_is_told_once_whenever_the_teller_dies(tmp_path: Path, restarts: int) -> None:
    kept = [f"reason {number}" for number in range(restarts)][-64:]
    for first in range(min(3 * restarts, 12)):
        for second in range(3):
            path = tmp_path / f"{first}-{second}.log"
            with new_region() as region:
                for number in range(restarts):
                    region.add_restart(f"reason {number}")
                for stores in (first, second, _NEVER):
                    log = LogWriter(str(path), "volume", OnLogFailure.CONTINUE, region.log_cells())
                    try:
                        _tell(region, log, DyingWriter(region, stores))
                        log.close()
                    except Died:
                        continue
            told = [decode(line) for line in path.read_bytes().splitlines()]
            assert [record.reason for record in told] == kept, (first, second)
            assert [record.seq for record in told] == list(range(1, len(kept) + 1))


def test_a_restart_counts_when_its_reason_is_there() -> None:
    stores = 0
    died = True
    while died:
        died = False
        note = Note("restart", OK, "a reason " * 20)
        with new_region() as region:
            region.add_restart("the one before")
            try:
                Region.add_note(DyingWriter(region, stores).region(), note)
            except Died:
                died = True
            reasons = [region.note(number).reason for number in region.untold()]
            assert reasons == ["the one before", "a reason " * 20][: 1 if died else 2]
        stores += 1
    assert stores > 30
