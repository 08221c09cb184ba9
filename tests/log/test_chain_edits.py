"""Any edit of a chained log is found, and the first record that it concerns is named."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusevol.proof.findings import Tampering
from fusevol.proof.verifier import Report
from fusevol.record.links import seq_of
from tests.log.chained import lines_of, rotate, verified, verified_publicly, write, writer


@dataclass
class Original:
    """A log in three files, the oldest first, as it was written."""

    log: Path
    files: list[Path]
    contents: list[bytes]

    def restore(self) -> None:
        for file, content in zip(self.files, self.contents, strict=True):
            file.write_bytes(content)

    def lines(self) -> list[bytes]:
        return lines_of(self.files)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    directory = tmp_path_factory.mktemp("edits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_STATE_DIRECTORY", str(directory / "state"))
        path = directory / "access.log"
        log = writer(path)
        write(log, 30)
        oldest = rotate(log, 2)
        write(log, 30)
        middle = rotate(log, 1)
        write(log, 30)
        log.close()
        files = [oldest, middle, path]
        yield Original(path, files, [file.read_bytes() for file in files])


def _check(original: Original) -> Report:
    """Verify what is there now, and check that the right record is named."""
    before = b"".join(original.contents).splitlines(keepends=True)
    now = original.lines()
    report = verified(original.log)
    if now == before:
        assert report.finding is None, report.finding
        assert report.records == len(before)
        return report
    intact = 0
    while intact < min(len(now), len(before)) and now[intact] == before[intact]:
        intact += 1
    assert report.finding is not None
    assert report.finding.seq == intact + 1, report.finding
    return report


many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@given(data=st.data())
def test_any_edit_of_bytes_is_found(original: Original, data: st.DataObject) -> None:
    original.restore()
    file = data.draw(st.sampled_from(original.files))
    content = file.read_bytes()
    begin = data.draw(st.integers(0, len(content)))
    end = min(len(content), begin + data.draw(st.sampled_from([0, 1, 1, 2, 40, 300, 3000])))
    new = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"{", b'"', b"}\n{", b" "]))
    file.write_bytes(content[:begin] + new + content[end:])
    seq = _check(original).finding
    # Who has less to go by may find less, or later, but finds no way to fail.
    verified(original.log, since=data.draw(st.integers(1, 100)))
    found = verified_publicly(original.log).finding
    assert found is None or (seq is not None and found.seq >= seq.seq)


@many
@given(data=st.data())
def test_any_flipped_bit_is_found(original: Original, data: st.DataObject) -> None:
    original.restore()
    file = data.draw(st.sampled_from(original.files))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    _check(original)


@many
@given(data=st.data())
def test_any_edit_of_whole_lines_is_found(original: Original, data: st.DataObject) -> None:
    original.restore()
    file = data.draw(st.sampled_from(original.files))
    lines = file.read_bytes().splitlines(keepends=True)
    begin = data.draw(st.integers(0, len(lines) - 1))
    count = data.draw(st.integers(1, 4))
    chosen = lines[begin : begin + count]
    target = data.draw(st.integers(0, len(lines)))
    match data.draw(st.sampled_from(["remove", "move", "copy", "reverse", "strip", "foreign"])):
        case "remove":
            del lines[begin : begin + count]
        case "move":
            del lines[begin : begin + count]
            lines[target:target] = chosen
        case "copy":
            lines[target:target] = chosen
        case "reverse":
            lines[begin : begin + count] = reversed(chosen)
        case "strip":
            bare = [line[:-44] + b"}\n" for line in chosen]
            lines[begin : begin + count] = bare
        case _:
            lines[target:target] = [b'{"time":"2026-11-24T02:03:07.816699Z","seq":3,"op":"x"}\n']
    file.write_bytes(b"".join(lines))
    _check(original)


@pytest.mark.parametrize(
    ("what", "kind", "seq"),
    [
        ("change", Tampering.CHANGED, 40),
        ("hash", Tampering.CHANGED, 40),
        ("strip", Tampering.CHANGED, 40),
        ("remove", Tampering.REMOVED, 40),
        ("swap", Tampering.REORDERED, 40),
        ("repeat", Tampering.INSERTED, 41),
        ("insert", Tampering.INSERTED, 40),
        ("garbage", Tampering.INSERTED, 40),
        ("blank", Tampering.INSERTED, 40),
    ],
)
def test_what_was_done_to_a_record_is_told(
    original: Original, what: str, kind: Tampering, seq: int
) -> None:
    original.restore()
    file = original.files[1]
    lines = file.read_bytes().splitlines(keepends=True)
    at = 39 - len(original.contents[0].splitlines())
    line = lines[at]
    assert b'"seq":40,' in line
    lines[at : at + 1] = {
        "change": [line.replace(b'"size":4096', b'"size":4097')],
        "hash": [line[:-10] + b"0000000" + line[-3:]],
        "strip": [line[:-44] + b"}\n"],
        "remove": [],
        "swap": [lines[at + 1], line],
        "repeat": [line, line],
        "insert": [lines[2], line],
        "garbage": [b"garbage\n", line],
        "blank": [b"\n", line],
    }[what]
    if what == "swap":
        del lines[at + 2]
    file.write_bytes(b"".join(lines))
    finding = _check(original).finding
    assert finding is not None
    assert (finding.kind, finding.seq) == (kind, seq)
    assert finding.file == str(file)
    assert finding.line == at + (2 if what == "repeat" else 1)


@pytest.mark.parametrize("number", [1, 20, 40, 200])
@pytest.mark.parametrize("which", [1, 2])
def test_the_first_record_of_a_file_does_not_decide_where_it_belongs(
    original: Original, which: int, number: int
) -> None:
    original.restore()
    file, content = original.files[which], original.contents[which]
    first, _, rest = content.partition(b"\n")
    seq = seq_of(first)
    assert seq is not None
    changed = first.replace(b'"seq":%d,' % seq, b'"seq":%d,' % number)
    for line in (changed, changed.replace(b'"volume":"v"', b'"volume":"w"')):
        file.write_bytes(line + b"\n" + rest)
        finding = _check(original).finding
        assert finding is not None
        assert (finding.kind, finding.file, finding.line) == (Tampering.CHANGED, str(file), 1)


def test_nothing_comes_before_the_first_record(original: Original) -> None:
    for line in (b"\n", b"x\n", b'{"time":"2026-11-24T02:03:07.816699Z","seq":0,"op":"x"}\n'):
        original.restore()
        original.files[0].write_bytes(line + original.contents[0])
        finding = _check(original).finding
        assert finding is not None
        assert (finding.kind, finding.seq, finding.line) == (Tampering.INSERTED, 1, 1)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_that_is_gone_is_missed(original: Original, which: int) -> None:
    original.restore()
    counts = [len(content.splitlines()) for content in original.contents]
    first = sum(counts[:which]) + 1
    if which == 2:
        original.files[2].write_bytes(b"")
    else:
        original.files[which].unlink()
    finding = verified(original.log).finding
    assert finding is not None
    assert finding.kind is (Tampering.CUT if which == 2 else Tampering.REMOVED)
    assert (finding.seq, finding.until) == (first, first + counts[which] - 1)


def test_names_of_files_do_not_matter_and_compression_does_not(original: Original) -> None:
    original.restore()
    oldest, middle, _newest = original.files
    contents = original.contents
    oldest.write_bytes(contents[1])
    middle.write_bytes(contents[0])
    assert verified(original.log).finding is None
    original.restore()
    packed = middle.with_name(middle.name + ".gz")
    middle.unlink()
    try:
        packed.write_bytes(gzip.compress(contents[1]))
        assert verified(original.log, processes=2).finding is None
        lines = contents[1].splitlines(keepends=True)
        packed.write_bytes(gzip.compress(b"".join(lines[:5] + lines[6:])))
        finding = verified(original.log).finding
        assert finding is not None
        assert finding.seq == len(contents[0].splitlines()) + 6
        packed.write_bytes(gzip.compress(contents[1])[:-200])
        finding = verified(original.log).finding
        assert finding is not None
        assert 31 < finding.seq <= 63
    finally:
        packed.unlink()
