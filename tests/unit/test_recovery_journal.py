"""The journal: of what a dead worker had begun, that is gone on with which is unanswered."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusevol.recovery.journal import (
    CODES,
    DONE,
    ERRNO,
    INTENDED,
    LOGGING,
    RECORDED,
    SEQ,
    STARTED,
    Entry,
    Journal,
    Key,
)
from fusevol.recovery.region import Region
from tests.unit.dying import Died, DyingWriter
from tests.unit.regions import new_region

_PHASES = (STARTED, INTENDED, DONE, LOGGING, RECORDED)
_TID = 4711


@pytest.fixture
def region() -> Iterator[Region]:
    with new_region() as region:
        yield region


@pytest.fixture
def journal(region: Region) -> Journal:
    return Journal(region)


def _begin_inline(journal: Journal, op: str, who: int) -> Entry:
    entry = journal.begin(CODES[op], who, 0, False)
    assert entry is journal.inline
    return entry


def _begun(
    journal: Journal, op: str, who: int, where: int = 0, phase: int = STARTED, seq: int = 0
) -> Entry:
    entry = journal.begin(CODES[op], who, where, True)
    if phase == INTENDED:
        entry.intend(1, 2)
    elif phase >= DONE:
        entry.done(fh=7)
    if phase >= LOGGING:
        journal.words[entry.at + ERRNO] = 0
        journal.words[entry.at + SEQ] = seq
        journal.words[entry.at] = CODES[op] | phase
    return entry


def _key(op: str, who: int, where: int = 0) -> Key:
    return Key(CODES[op], who, where)


def _successor(region: Region, *unanswered: Key, last_seq: int = 0, flags: int = 0) -> Journal:
    """What the keeper and the next worker do."""
    Journal(region).settle([(key, flags) for key in unanswered])
    journal = Journal(region)
    journal.load(last_seq)
    return journal


def test_what_was_answered_is_not_gone_on_with(region: Region, journal: Journal) -> None:
    entry = _begun(journal, "mkdir", _TID)
    journal.finished.append(entry)
    journal.answered()
    assert not journal.is_waiting()
    assert _successor(region, _key("mkdir", _TID)).resumed == {}
    assert _begun(journal, "mkdir", _TID) is entry


def test_what_is_unanswered_is_gone_on_with_once(region: Region, journal: Journal) -> None:
    _begun(journal, "mkdir", _TID, phase=DONE)
    successor = _successor(region, _key("mkdir", _TID))
    entry = successor.resume(_key("mkdir", _TID))
    assert entry is not None
    assert (entry.phase, entry.fh) == (DONE, 7)
    assert successor.resume(_key("mkdir", _TID)) is None
    assert successor.resumed == {}
    successor.finished.append(entry)
    successor.answered()
    assert not successor.is_waiting()


def test_an_entry_whose_answer_was_sent_just_before_the_end_is_let_go(
    region: Region, journal: Journal
) -> None:
    _begun(journal, "mkdir", _TID, phase=RECORDED)
    assert _successor(region, _key("rmdir", _TID), _key("mkdir", _TID + 1)).resumed == {}


def test_evidence_is_kept(region: Region, journal: Journal) -> None:
    _begun(journal, "unlink", _TID).intend((1 << 64) - 1, 3)
    entry = _successor(region, _key("unlink", _TID)).resume(_key("unlink", _TID))
    assert entry is not None
    assert entry.phase == INTENDED
    assert entry.evidence == ((1 << 64) - 1, 3)


def test_what_was_done_without_waiting_is_gone_on_with_too(
    region: Region, journal: Journal
) -> None:
    _begin_inline(journal, "rename", _TID).intend(5, 6)
    _begun(journal, "fsync", 3)
    assert Journal(region).executing() == _key("rename", _TID)
    successor = _successor(region, _key("rename", _TID), _key("fsync", 3))
    entry = successor.resume(_key("rename", _TID))
    assert entry is not None
    assert entry.evidence == (5, 6)
    assert entry is not successor.inline
    # The next request done without waiting does not disturb it.
    _begin_inline(successor, "mkdir", 9)
    assert entry.key == _key("rename", _TID)


@pytest.mark.parametrize("op", ["read", "write", "readdir"])
def test_positions_tell_requests_on_one_handle_apart(
    region: Region, journal: Journal, op: str
) -> None:
    for where in (0, 4096, 8192):
        _begun(journal, op, 3, where)
    successor = _successor(region, _key(op, 3, 4096))
    assert list(successor.resumed) == [_key(op, 3, 4096)]


@pytest.mark.parametrize("op", ["flush", "fsync", "release"])
def test_other_requests_have_no_position(region: Region, journal: Journal, op: str) -> None:
    _begun(journal, op, 3, where=77)
    assert list(_successor(region, _key(op, 3)).resumed) == [_key(op, 3)]


@pytest.mark.parametrize(("seq", "phase"), [(41, RECORDED), (42, RECORDED), (43, DONE)])
def test_the_log_tells_whether_a_record_was_written(
    region: Region, journal: Journal, seq: int, phase: int
) -> None:
    _begun(journal, "write", 3, 0, LOGGING, seq)
    entry = _successor(region, _key("write", 3), last_seq=42).resume(_key("write", 3))
    assert entry is not None
    assert entry.phase == phase


@pytest.mark.parametrize(("seq", "phase"), [(42, RECORDED), (43, STARTED)])
def test_what_failed_is_tried_again_unless_its_record_says_so(
    region: Region, journal: Journal, seq: int, phase: int
) -> None:
    failed = _begun(journal, "mkdir", _TID, 0, LOGGING, seq)
    journal.words[failed.at + ERRNO] = 17
    entry = _successor(region, _key("mkdir", _TID), last_seq=42).resume(_key("mkdir", _TID))
    assert entry is not None
    assert entry.phase == phase
    assert entry.errno == 17


def test_of_requests_that_are_alike_those_without_a_record_are_unanswered(
    region: Region, journal: Journal
) -> None:
    for phase in (RECORDED, STARTED, LOGGING, DONE):
        _begun(journal, "write", 3, 0, phase)
    successor = _successor(region, _key("write", 3), _key("write", 3))
    assert [entry.phase for entry in successor.resumed[_key("write", 3)]] == [STARTED, DONE]


def test_attributes_that_pyfuse3_looks_at_first_are_a_setting(
    region: Region, journal: Journal
) -> None:
    """For XATTR_CREATE pyfuse3 calls getxattr; the kernel has asked for setxattr only."""
    _begin_inline(journal, "getxattr", _TID)
    successor = _successor(region, _key("setxattr", _TID), flags=os.XATTR_CREATE)
    (entry,) = next(iter(successor.resumed.values()))
    assert entry.xattr_flags == os.XATTR_CREATE
    assert entry.phase == STARTED


def test_who_asks_for_an_attribute_is_not_taken_for_one_who_sets_it(
    region: Region, journal: Journal
) -> None:
    _begun(journal, "getxattr", _TID)
    _begun(journal, "setxattr", _TID + 1, phase=DONE)
    successor = _successor(
        region, _key("getxattr", _TID), _key("setxattr", _TID + 1), flags=os.XATTR_REPLACE
    )
    assert set(successor.resumed) == {_key("getxattr", _TID), _key("setxattr", _TID + 1)}


def test_several_workers_may_die_before_a_request_comes_again(
    region: Region, journal: Journal
) -> None:
    _begun(journal, "symlink", _TID, phase=DONE)
    for _ in range(5):
        assert len(_successor(region, _key("symlink", _TID)).resumed) == 1
    successor = _successor(region, _key("symlink", _TID))
    entry = successor.resume(_key("symlink", _TID))
    assert entry is not None
    # And after it has come and not been answered.
    assert len(_successor(region, _key("symlink", _TID)).resumed) == 1


def test_a_request_whose_caller_was_killed_is_not_another_ones(
    region: Region, journal: Journal
) -> None:
    _begun(journal, "write", 3, 0, DONE)
    successor = _successor(region, _key("write", 3))
    successor.give_up_resumed()
    assert successor.resume(_key("write", 3)) is None
    assert not successor.is_waiting()
    assert len({_begun(successor, "fsync", 4).at for _ in range(159)}) == 159


@pytest.mark.parametrize(
    ("phases", "executing"),
    [((STARTED,), True), ((INTENDED,), True), ((DONE,), False), ((RECORDED,), False),
     ((STARTED, RECORDED), True), ((STARTED, INTENDED), False), ((), False)],
)  # fmt: skip
def test_what_was_being_executed_is_told_if_it_is_certain(
    region: Region, journal: Journal, phases: tuple[int, ...], executing: bool
) -> None:
    for phase in phases:
        _begun(journal, "fsync", phases.index(phase), phase=phase)
    assert Journal(region).executing() == (_key("fsync", 0) if executing else None)


def test_the_keeper_may_die_as_it_settles() -> None:
    stores = 0
    died = True
    while died:
        died = False
        with new_region() as region:
            journal = Journal(region)
            _begin_inline(journal, "rename", _TID).intend(5, 6)
            for where in range(3):
                _begun(journal, "write", 3, where, _PHASES[where])
            unanswered = [_key("rename", _TID), _key("write", 3, 1)]
            dying = DyingWriter(region, stores)
            try:
                Journal(dying.region()).settle([(key, 0) for key in unanswered])
            except Died:
                died = True
            successor = _successor(region, *unanswered)
            assert set(successor.resumed) == set(unanswered)
            entry = successor.resume(unanswered[0])
            assert entry is not None
            assert (entry.phase, entry.evidence) == (INTENDED, (5, 6))
            assert successor.resume(unanswered[0]) is None
        stores += 1
    assert stores > 15


_requests = st.tuples(
    st.sampled_from(["write", "mkdir"]), st.integers(1, 2), st.integers(0, 1),
    st.sampled_from(_PHASES),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(_requests, max_size=12), st.lists(_requests, max_size=8))
def test_as_many_are_gone_on_with_as_are_unanswered(
    begun: list[tuple[str, int, int, int]], sent: list[tuple[str, int, int, int]]
) -> None:
    with new_region() as region:
        journal = Journal(region)
        phases: dict[Key, list[int]] = {}
        for op, who, where, phase in begun:
            entry = _begun(journal, op, who, where, phase, seq=1)
            phases.setdefault(entry.key, []).append(RECORDED if phase == LOGGING else phase)
        keys = [_key(op, who, where if op == "write" else 0) for op, who, where, _ in sent]
        successor = _successor(region, *keys, last_seq=1)
        expected = {}
        for key, count in Counter(keys).items():
            if key in phases:
                expected[key] = sorted(phases[key])[:count]
        found = {
            key: sorted(entry.phase for entry in entries)
            for key, entries in successor.resumed.items()
        }
        assert found == expected


def test_what_may_have_no_record_yet_is_counted(journal: Journal) -> None:
    assert journal.pending(journal.inline) == 0
    one, other = _begun(journal, "fsync", 3), _begun(journal, "fsync", 4)
    assert (journal.pending(one), journal.pending(journal.inline)) == (1, 2)
    # Its record is written; the reply is about to leave.
    journal.finished.append(other)
    assert (journal.pending(one), journal.pending(journal.inline)) == (0, 1)
