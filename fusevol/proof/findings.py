"""What verification finds, and which record is the first that is concerned."""

import enum
from collections.abc import Callable

import msgspec

from fusevol.proof.judges import Judge, is_record
from fusevol.proof.section_check import Mismatch
from fusevol.record.links import is_hashed, seq_of


class Tampering(enum.StrEnum):
    """What was done to a log."""

    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    CUT = "cut"
    """The end is missing."""
    REPLACED = "replaced"
    """It is not the log that it should be."""


class Finding(msgspec.Struct, omit_defaults=True):
    """The first thing that is wrong with a log.

    Attributes:
        kind: what was done, as far as it is known.
        seq: number of the first record that was changed or is missing, or before which one was
            inserted.
        until: number of the last one that is missing.
        file, line: where that shows.
        detail: what else can be said.
    """

    kind: Tampering
    seq: int
    file: str
    line: int
    until: int | None = None
    detail: str = ""


def classify(
    mismatch: Mismatch, file: str, judge: Judge, is_elsewhere: Callable[[int], bool], expected: int
) -> Finding:
    """Return what a mismatch means.

    Args:
        file: where the line is that does not follow; other lines name their own.
        is_elsewhere: says whether there is a record with a certain number in the log.
        expected: number that the first record behind the mismatch should have.
    """
    spot = mismatch.spot
    assert spot is not None
    if spot.before.count:
        between = spot.before
        kind, detail = _of_unhashed(mismatch, expected)
        return Finding(kind, expected, between.path or file, between.number, detail=detail)
    seq = seq_of(spot.line)
    following = mismatch.following
    if following is not None:
        is_between = mismatch.previous is not None and judge.follows(following, mismatch.previous)
        if is_between and seq is not None and seq > expected:
            return Finding(Tampering.REORDERED, expected, file, spot.number, detail=_early(seq))
        if is_between:
            return Finding(Tampering.INSERTED, expected, file, spot.number, detail=_what(spot.line))
        if judge.follows(following, spot.line) and seq_of(following) == expected + 1:
            return Finding(Tampering.CHANGED, expected, file, spot.number)
    if seq is None or seq == expected:
        return Finding(Tampering.CHANGED, expected, file, spot.number)
    if seq < expected:
        return Finding(Tampering.INSERTED, expected, file, spot.number, detail=_what(spot.line))
    if is_elsewhere(expected):
        return Finding(Tampering.REORDERED, expected, file, spot.number, detail=_early(seq))
    return Finding(Tampering.REMOVED, expected, file, spot.number, until=seq - 1)


def _of_unhashed(mismatch: Mismatch, expected: int) -> tuple[Tampering, str]:
    """Return what lines without a hash mean that no writer has left there."""
    spot = mismatch.spot
    assert spot is not None
    between = spot.before
    what = _what(between.first)
    if seq_of(spot.line) == expected:
        return Tampering.INSERTED, what
    if between.seq == expected or between.seq is None:
        return Tampering.CHANGED, f"found {what}"
    return Tampering.INSERTED, what


def _early(seq: int) -> str:
    return f"record {seq} is in its place"


def _what(line: bytes) -> str:
    if not is_record(line):
        return "a line that is not a record"
    again = f"record {seq_of(line)}"
    return again if is_hashed(line) else f"{again} without a hash"
