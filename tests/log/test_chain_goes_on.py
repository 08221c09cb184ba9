"""A chain goes on over restarts, rotation and crashes, and what was done meanwhile is found."""

import array
import base64
import gzip
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from fusevol.errors import FusevolError, NotFoundError
from fusevol.proof import keys
from fusevol.proof.findings import Finding, Tampering
from fusevol.proof.judges import PublicJudge
from fusevol.proof.ledger import Ledger, forget
from fusevol.proof.verifier import Question, Report, verify
from fusevol.record.record import AccessRecord, decode
from tests.log.chained import lines_of, rotate, verified, write, writer
from tests.served import needs_root


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "access.log"


def _session(log: Path, count: int = 10, *, chain: bool = True, volume: str = "v") -> None:
    """Write some records, from opening the log to closing it."""
    one = writer(log, volume, chain=chain)
    write(one, count, volume)
    one.close()


def _finding(report: Report) -> Finding:
    assert report.finding is not None
    return report.finding


def _cells() -> memoryview:
    return memoryview(array.array("Q", bytes(320)))


# --- what is no edit ---


def test_over_restarts_and_rotation(log: Path) -> None:
    _session(log)
    one = writer(log)
    write(one, 5)
    first = rotate(one, 2)
    write(one, 5)
    one.close()
    second = log.rename(f"{log}.1")
    _session(log)
    report = verified(log)
    assert report.finding is None
    assert report.records == len(lines_of([first, second, log])) == report.last_seq
    assert report.checkpoints == 4
    assert (report.begun_at, report.off, report.torn) == (0, [], [])


def test_a_log_that_was_renamed_is_verified_all_the_same(log: Path) -> None:
    _session(log)
    log.rename(f"{log}.1")
    report = verified(log)
    assert (report.finding, report.records) == (None, 11)
    with pytest.raises(NotFoundError):
        verified(log.with_name("other.log"))


def test_nothing_new_needs_no_checkpoint(log: Path) -> None:
    one = writer(log)
    one.checkpoint()
    write(one, 1)
    for _ in range(3):
        one.checkpoint()
    one.close()
    writer(log).close()
    assert [decode(line).op for line in lines_of([log])] == ["write", "checkpoint"]


@pytest.mark.parametrize("moment", ["between", "within", "rotated"])
def test_a_worker_that_is_killed_is_followed(log: Path, moment: str) -> None:
    cells = _cells()
    one = writer(log, cells=cells)
    write(one, 10)
    if moment == "within":
        with log.open("ab") as file:
            file.write(b'{"time":"2026-')
    elif moment == "rotated":
        # And somebody else took away what was rotated.
        rotate(one, 1).rename(log.with_name("elsewhere"))
    two = writer(log, cells=cells)
    write(two, 10)
    two.close()
    if moment == "rotated":
        log.with_name("elsewhere").rename(f"{log}.1")
    report = verified(log)
    assert (report.finding, report.torn) == (None, [])
    assert report.last_seq == report.records >= 21


@pytest.mark.parametrize("rotated", [False, True])
def test_half_a_line_of_a_crash_is_told_and_no_edit(log: Path, rotated: bool) -> None:
    _session(log)
    half = b'{"time":"2026-11-24T02:03:07.816699Z","seq":12,"vol'
    with log.open("ab") as file:
        file.write(half)
    place = log.rename(f"{log}.1") if rotated else log
    _session(log)
    report = verified(log)
    assert report.finding is None
    assert report.torn == [(str(place), 12)]
    place.write_bytes(place.read_bytes().replace(half, half + b"x"))
    assert _finding(verified(log)).seq == 12


def test_numbers_go_on_where_only_a_compressed_file_is_left(log: Path) -> None:
    for chain in (True, False):
        _session(log, chain=chain)
        content = log.read_bytes()
        log.unlink()
        packed = Path(f"{log}.1.gz")
        packed.write_bytes(gzip.compress(content))
        _session(log, chain=chain)
        records = [decode(line) for line in content.splitlines()]
        assert decode(lines_of([log])[0]).seq == records[-1].seq + 1
        if chain:
            assert verified(log).finding is None


def test_losses_are_part_of_the_chain(log: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    one = writer(log)
    write(one, 5)
    fd = one._cells[0] - 1
    aside = os.dup(fd)
    with full.open("wb") as device:
        os.dup2(device.fileno(), fd)
    write(one, 7)
    os.dup2(aside, fd)
    os.close(aside)
    one._retry_ns = 0
    one.catch_up()
    write(one, 5)
    one.close()
    records = [decode(line) for line in lines_of([log])]
    assert [record.lost for record in records if record.op == "gap"] == [7]
    assert verified(log).finding is None


@needs_root
def test_half_a_record_that_cannot_be_taken_back_is_told_and_no_edit(log: Path) -> None:
    one = writer(log)
    write(one, 5)
    # Nothing can be taken from a file that may only grow, and this one has room for half a record.
    subprocess.run(["chattr", "+a", log], check=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 100, limits[1]))
        write(one, 3)
        one._retry_ns = 0
        one.catch_up()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        one._retry_ns = 0
        one.catch_up()
        write(one, 5)
        one.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        subprocess.run(["chattr", "-a", log], check=True)
    report = verified(log)
    assert (report.finding, report.torn) == (None, [(str(log), 6)])
    lines = lines_of([log])
    assert len(lines[5]) == 101
    assert decode(lines[6]).lost == 3
    log.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert _finding(verified(log)).seq == 6


def test_verification_of_a_log_that_is_being_written_and_rotated(log: Path) -> None:
    one = writer(log)
    write(one, 100)
    ends = threading.Event()

    def work() -> None:
        number = 100
        while not ends.is_set():
            write(one, 10)
            time.sleep(0.005)
            if number < 120:
                number += 1
                packed = rotate(one, number)
                content = gzip.compress(packed.read_bytes(), 1)
                packed.with_name(packed.name + ".gz").write_bytes(content)
                packed.unlink()
            one.checkpoint()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        reports = [verified(log) for _ in range(15)]
        while reports[-1].records <= reports[0].records:
            reports.append(verified(log))
    finally:
        ends.set()
        thread.join()
    one.close()
    assert [report.finding for report in reports if report.finding is not None] == []
    assert reports[-1].records > reports[0].records >= 100
    assert verified(log).finding is None


# --- turned on and off ---


def test_turned_on_later_it_covers_what_follows(log: Path) -> None:
    _session(log, chain=False)
    _session(log)
    report = verified(log)
    assert report.finding is None
    assert (report.begun_at, report.records) == (11, 11)
    lines = lines_of([log])
    log.write_bytes(b"".join(lines[:10] + lines[11:]))
    assert _finding(verified(log)).seq == 1  # nothing tells the records before from a beginning


def test_turned_off_and_on_it_tells_what_is_not_covered(log: Path) -> None:
    _session(log)
    _session(log, chain=False)
    report = verified(log)
    assert (report.finding, report.off) == (None, [(12, 21)])
    _session(log, chain=False)
    _session(log)
    _session(log)
    report = verified(log)
    assert (report.finding, report.off) == (None, [(12, 31)])
    lines = lines_of([log])
    # Hashes that are gone are none that never were.
    bare = [line[:-44] + b"}\n" for line in lines[8:11]]
    log.write_bytes(b"".join(lines[:8] + bare + lines[11:]))
    assert _finding(verified(log)).seq == 9
    log.write_bytes(b"".join(lines[:8] + lines[11:]))
    assert _finding(verified(log)).seq == 9


def test_taken_over_right_after_it_was_turned_on_again(log: Path) -> None:
    _session(log)
    cells = _cells()
    write(writer(log, chain=False, cells=cells), 3)
    write(writer(log, cells=cells), 3)
    last = writer(log, cells=cells)
    write(last, 3)
    last.close()
    report = verified(log)
    assert (report.finding, report.off) == (None, [(12, 14)])


# --- what was done while nothing was written ---


def test_what_was_cut_off_stays_missing(log: Path) -> None:
    _session(log)
    whole = lines_of([log])
    log.write_bytes(b"".join(whole[:6]))
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq, finding.until) == (Tampering.CUT, 7, 11)
    _session(log)
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq, finding.until) == (Tampering.REMOVED, 7, 11)


def test_a_log_that_was_removed_does_not_begin_anew(log: Path) -> None:
    _session(log)
    log.unlink()
    _session(log)
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq, finding.until) == (Tampering.REMOVED, 1, 11)
    assert verified(log, since=12).finding is None


def test_records_that_were_put_behind_the_end_are_found(log: Path) -> None:
    _session(log)
    whole = log.read_bytes()
    line = whole.splitlines(keepends=True)[3]
    for more in (line, line[:-44] + b"}\n", b"\n", b"x"):
        log.write_bytes(whole + more)
        assert _finding(verified(log)).seq == 12, more
    log.write_bytes(whole + line[:-44].replace(b'"seq":4,', b'"seq":12,') + b"}\n")
    _session(log)
    assert _finding(verified(log)).seq == 12


def test_an_older_copy_of_the_log_is_found(log: Path) -> None:
    _session(log)
    old = log.read_bytes()
    _session(log)
    log.write_bytes(old)
    assert _finding(verified(log)).kind is Tampering.CUT


@pytest.mark.parametrize("from_volume", ["v", "w"])
def test_another_log_in_its_place_is_found(log: Path, from_volume: str) -> None:
    other = log.with_name("other.log")
    _session(log)
    _session(other, 30, volume=from_volume)
    log.write_bytes(other.read_bytes())
    assert _finding(verified(log)).kind is Tampering.REPLACED
    assert _finding(verified(other, volume="x")).kind is Tampering.REPLACED


def test_a_chain_by_another_key_is_found(log: Path) -> None:
    _session(log)
    key = Path(keys.key_path())
    genuine, head = key.read_bytes(), next(key.parent.glob("*.head")).read_bytes()
    # What somebody without the key can do: write it all anew, with a key and a state of their own.
    log.unlink()
    key.write_bytes(b"x" * 32)
    next(key.parent.glob("*.head")).unlink()
    next(key.parent.parent.glob("logs/*.numbers")).unlink()
    _session(log, 12)
    key.write_bytes(genuine)
    next(key.parent.glob("*.head")).write_bytes(head)
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq) == (Tampering.CHANGED, 1)


def test_a_log_without_any_hash_left_is_found(log: Path) -> None:
    _session(log)
    log.write_bytes(b"".join(line[:-44] + b"}\n" for line in lines_of([log])))
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq) == (Tampering.CHANGED, 1)
    other = log.with_name("other.log")
    _session(other, chain=False)
    with pytest.raises(FusevolError, match="none of its records has a hash"):
        verified(other)


# --- what is removed on purpose ---


def test_files_that_retention_removes_are_no_edit(log: Path) -> None:
    one = writer(log)
    rotated = []
    for number in (5, 4, 3, 2, 1):
        write(one, 10)
        rotated.append(rotate(one, number))
    write(one, 10)
    one.close()
    for file in rotated[:2]:
        forget(str(log), str(file))
        file.unlink()
    report = verified(log)
    assert (report.finding, report.removed) == (None, [(1, 22)])
    # It was noted, but the machine stopped before it was done.
    forget(str(log), str(rotated[2]))
    assert verified(log).finding is None
    rotated[2].unlink()
    assert verified(log).removed == [(1, 33)]
    rotated[3].unlink()
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq, finding.until) == (Tampering.REMOVED, 34, 44)
    assert "--since-seq 45" in finding.detail


def test_a_part_that_is_removed_on_purpose_hides_no_other(log: Path) -> None:
    one = writer(log)
    rotated = []
    for number in (5, 4, 3, 2, 1):
        write(one, 10)
        rotated.append(rotate(one, number))
    one.close()
    # As if somebody had given the oldest file another name, which retention does not touch.
    for file in rotated[1:3]:
        forget(str(log), str(file))
        file.unlink()
    report = verified(log)
    assert (report.finding, report.removed) == (None, [(12, 33)])
    aside = rotated[0].rename(log.with_name("aside"))
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq) == (Tampering.REMOVED, 1)
    aside.rename(rotated[0])
    lines = lines_of([rotated[0]])
    rotated[0].write_bytes(b"".join(lines[:-1]))
    finding = _finding(verified(log))
    assert (finding.kind, finding.seq) == (Tampering.REMOVED, 11)


def test_a_chain_that_began_late_may_lose_its_beginning(log: Path) -> None:
    _session(log, chain=False)
    old = log.rename(f"{log}.9")
    one = writer(log)
    old.unlink()  # by retention, which has kept no notes until now
    rotated = []
    for number in range(80):
        write(one, 1)
        rotated.append(rotate(one, 100 - number))
    one.close()
    for file in rotated[:75]:
        forget(str(log), str(file))
        file.unlink()
    report = verified(log)
    assert (report.finding, report.removed) == (None, [(11, 160)])
    assert len(Ledger(str(log)).marks()) == 64
    rotated[75].unlink()
    assert _finding(verified(log)).seq == 161


def test_what_is_removed_may_end_where_the_chain_was_off(log: Path) -> None:
    _session(log)
    first = log.rename(f"{log}.2")
    _session(log, chain=False)
    second = log.rename(f"{log}.1")
    _session(log)
    for file in (first, second):
        forget(str(log), str(file))
        file.unlink()
    report = verified(log)
    assert (report.finding, report.removed) == (None, [(1, 21)])
    lines = lines_of([log])
    log.write_bytes(lines[0].replace(b"4096", b"4097") + b"".join(lines[1:]))
    assert _finding(verified(log)).seq == 22


def test_a_log_without_a_chain_is_forgotten_without_a_note(log: Path) -> None:
    _session(log, chain=False)
    forget(str(log), str(log))
    assert not Path(keys.directory()).exists()


# --- with the public key ---


@pytest.fixture
def public(log: Path, tmp_path: Path) -> Iterator[PublicJudge]:
    keys.load_or_make()
    path = tmp_path / "public.pem"
    path.write_bytes(keys.load().public().pem())
    yield PublicJudge(keys.PublicKey.load(str(path)))
    os.unlink(path)


def test_signatures_are_verified_without_the_secret(log: Path, public: PublicJudge) -> None:
    _session(log)
    _session(log)
    Path(keys.key_path()).unlink()

    def finding() -> Finding | None:
        return verify(Question([str(log)]), public, lambda: (None, []), 1).finding

    assert finding() is None
    lines = lines_of([log])
    record = decode(lines[10])
    assert (record.op, record.signature is not None) == ("checkpoint", True)
    forged = base64.b64encode(bytes(64))
    for edited in (
        [*lines[:4], *lines[5:]],
        [*lines[:9], lines[9][:-10] + b"0000000" + lines[9][-3:], *lines[10:]],
        [*lines[:10], lines[10].replace((record.signature or "").encode(), forged), *lines[11:]],
    ):
        log.write_bytes(b"".join(edited))
        assert finding() is not None


# --- what is kept beside the key ---


def test_what_is_kept_must_be_signed(log: Path) -> None:
    from fusevol.proof.ledger import check_signatures

    _session(log)
    ledger = Ledger(str(log))
    head = ledger.head()
    assert head is not None
    check_signatures(keys.load().public(), head, ledger.marks())
    head.seq -= 1
    with pytest.raises(FusevolError, match="not written with this key"):
        check_signatures(keys.load().public(), head, [])


def test_the_hash_is_what_the_documentation_says(log: Path) -> None:
    _session(log, 3)
    secret = Path(keys.key_path()).read_bytes()
    key = blake2b(key=secret, digest_size=32, person=b"fusevol links").digest()
    before = b"0" * 32
    for line in lines_of([log]):
        text, _, rest = line.partition(b',"hash":')
        digits = blake2b(before + text, key=key, digest_size=16).hexdigest().encode()
        assert rest == b'"' + digits + b'"}\n'
        before = digits


def test_a_record_of_ours_keeps_its_hash_last(log: Path) -> None:
    assert AccessRecord.__struct_fields__[-1] == "hash"
