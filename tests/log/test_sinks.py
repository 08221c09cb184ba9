"""Sinks: what their words mean, what is sent, and what becomes of it when a receiver does not read.

Entries are taken apart by parsers of the published grammars, which know nothing of what made them.
"""

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusevol.errors import UsageError
from fusevol.logagent.sinks import SinkSpec, journal_entry, open_sink, parse, parse_all, rfc5424
from fusevol.logagent.sinks.message import severity, summary
from fusevol.logagent.sinks.spec import SinkKind
from fusevol.mounts.preflight import check
from fusevol.names import decode_name, encode_name
from fusevol.options.config import MountConfig
from fusevol.options.log import LogFormat, LogOptions
from fusevol.record.record import AccessRecord, decode, encode
from fusevol.server import volume_options
from tests.log import syslog_message
from tests.log.receivers import exported
from tests.log.records import RECORDS
from tests.log.test_formats import GAP, RENAME
from tests.patience import PATIENCE_S, PROMPT_S

TIMEOUT_S: Final = 0.3
ENTERPRISE: Final = 32473
"""The number for documentation (RFC 5612)."""


def with_names(record: AccessRecord) -> AccessRecord:
    """Make names of all texts that could be none: strategies have any text there."""
    texts = {
        key: encode_name(value.encode())
        for key, value in msgspec.structs.asdict(record).items()
        if isinstance(value, str) and key not in ("time", "op", "result")
    }
    return msgspec.structs.replace(record, **texts)


def meaning(values: dict[str, Any]) -> dict[str, bytes]:
    return {key: decode_name(str(value)) for key, value in values.items()}


def numbered(count: int, path: str = "/a") -> list[tuple[bytes, AccessRecord]]:
    records = [msgspec.structs.replace(RENAME, seq=seq, path=path) for seq in range(1, count + 1)]
    return [(encode(record), record) for record in records]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("journald", SinkSpec(SinkKind.JOURNALD, path="/run/systemd/journal/socket")),
        ("json@journald:/run/j", SinkSpec(SinkKind.JOURNALD, LogFormat.JSON, "/run/j")),
        ("syslog", SinkSpec(SinkKind.SYSLOG, path="/dev/log")),
        (
            "ecs@syslog:facility=local3:/run/log:enterprise=7",
            SinkSpec(SinkKind.SYSLOG, LogFormat.ECS, "/run/log", "local3", 7),
        ),
        ("text@stdout", SinkSpec(SinkKind.STDOUT, LogFormat.TEXT)),
        ("ocsf@unix:/run/a:b@c", SinkSpec(SinkKind.UNIX, LogFormat.OCSF, "/run/a:b@c")),
        ("unix:/run/a@b", SinkSpec(SinkKind.UNIX, path="/run/a@b")),
    ],
)
def test_words(text: str, spec: SinkSpec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unknown target ''"),
        ("kafka", "unknown target 'kafka'; use .*journald.*syslog.*unix:/SOCKET.*stdout"),
        ("jurnald", "unknown target 'jurnald'; did you mean journald[?]$"),
        ("syslog:facility=x", "unknown facility 'x', expected one of kern"),
        ("xml@syslog", "unknown format 'xml', expected one of json, ecs, ocsf, juicefs, text"),
        ("@journald", "unknown format ''"),
        ("unix", "path of the socket is missing"),
        ("unix:run/a", "absolute"),
        ("unix:/" + "a" * 107, "107 bytes"),
        ("journald:", "absolute"),
        ("stdout:/dev/tty", "no path"),
        ("syslog:local3", "'local3' is neither"),
        ("syslog:facility=local9", "unknown facility 'local9'; did you mean local.[?]$"),
        ("syslog:enterprise=0", "number that IANA"),
        ("syslog:enterprise=4294967296", "number that IANA"),
        ("syslog:enterprise=x", "number that IANA"),
    ],
)
def test_words_that_mean_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(text)


def test_sink_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_all(["syslog", "journald", "syslog:/dev/log"])


def test_sinks_are_checked_when_a_mount_or_volume_is_made(tmp_path: Path) -> None:
    source, mountpoint = tmp_path / "source", tmp_path / "mountpoint"
    source.mkdir()
    mountpoint.mkdir()
    (tmp_path / "link").symlink_to(source)

    def check_sink(sink: str) -> None:
        logging = LogOptions(sinks=(sink,))
        log = str(tmp_path / "log")
        check(MountConfig(str(source), str(mountpoint), "data", log, logging=logging))

    check_sink(f"unix:{tmp_path}/sink")
    for below in (source, mountpoint, tmp_path / "link"):
        with pytest.raises(UsageError, match="replace it"):
            check_sink(f"unix:{below}/sink")
    with pytest.raises(UsageError, match="unknown target"):
        check_sink("kafka")
    with pytest.raises(UsageError, match="unknown target"):
        volume_options.parse({"sinks": "syslog+kafka"})


@given(RECORDS.map(with_names))
@example(RENAME)
@example(GAP)
def test_structured_data_has_every_key(record: AccessRecord) -> None:
    encoded = rfc5424.encoder(lambda record: summary(record).encode(), 16, ENTERPRISE)(record)
    message = syslog_message.parse(encoded)
    assert encoded.decode().replace("\ufeff", "").isprintable()
    assert (message.priority, message.id) == (16 * 8 + severity(record), record.op)
    assert (message.application, message.process) == ("fusevol", str(os.getpid()))
    assert message.text == summary(record)
    [data] = message.elements.values()
    expected = json.loads(encode(record))
    assert message.time == expected.pop("time")
    assert meaning(data) == meaning(expected)


@given(RECORDS)
@example(RENAME)
def test_message_in_json_is_the_record(record: AccessRecord) -> None:
    message = syslog_message.parse(rfc5424.encoder(encode, 4, None)(record))
    assert message.elements == {}
    assert message.text.isprintable()
    assert decode(message.text.encode()) == record


@given(RECORDS, st.sampled_from([None, ENTERPRISE]), st.data())
@settings(max_examples=30, deadline=None)
def test_long_message_is_cut_and_says_so(
    record: AccessRecord, enterprise: int | None, data: st.DataObject
) -> None:
    record = with_names(record)
    name = data.draw(st.binary(min_size=1, max_size=4).map(encode_name))
    long = ("/" + name * 4096)[: data.draw(st.integers(4000, 12_000))]
    record = msgspec.structs.replace(record, path=long, to=long)
    encoded = rfc5424.encoder(encode, 16, enterprise)(record)
    assert len(encoded) <= rfc5424.MAX_MESSAGE_BYTES
    message = syslog_message.parse(encoded)
    received = decode(message.text.encode())
    for key, value in msgspec.structs.asdict(record).items():
        arrived = getattr(received, key)
        if arrived != value:
            assert arrived.endswith(rfc5424.CUT)
            assert value.startswith(arrived.removesuffix(rfc5424.CUT))
            assert key not in ("time", "seq", "op", "result")


@pytest.mark.parametrize("shift", range(6))
def test_cut_name_ends_with_a_whole_escape(shift: int) -> None:
    name = b"/" + b"a" * shift + b"\xff\\" * 2000
    record = msgspec.structs.replace(RENAME, path=encode_name(name))
    received = decode(syslog_message.parse(rfc5424.encoder(encode, 16, None)(record)).text.encode())
    assert received.path is not None
    text = received.path.removesuffix(rfc5424.CUT)
    assert encode_name(decode_name(text)) == text
    assert name.startswith(decode_name(text))
    assert len(text) > 100


@given(RECORDS, st.sampled_from([None, encode]))
@example(RENAME, None)
@example(GAP, None)
def test_journal_entry_has_every_key(
    record: AccessRecord, format_line: Callable[[AccessRecord], bytes] | None
) -> None:
    [entry] = exported(journal_entry.encoder(format_line)(record))
    line = summary(record).encode() if format_line is None else format_line(record)
    assert entry["MESSAGE"] == line
    assert int(entry["PRIORITY"]) == severity(record)
    assert all(re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name) for name in entry)
    assert {
        name.removeprefix("FUSEVOL_").lower(): value.decode()
        for name, value in entry.items()
        if name.startswith("FUSEVOL_")
    } == {key: str(value) for key, value in json.loads(encode(record)).items()}


@given(RECORDS)
def test_summary_is_one_harmless_line(record: AccessRecord) -> None:
    assert summary(record).isprintable()


@pytest.mark.parametrize(
    ("record", "expected", "line"),
    [
        (GAP, 3, '3 operations were not recorded ("No space left on device")'),
        (
            AccessRecord(
                op="write", path="/a b", result="ENOSPC", uid=7, pid=9, comm="cat",
                container="ab" * 32,
            ),
            4, 'write "/a b": ENOSPC, by cat[9], uid 7 in abababababab',
        ),
        (AccessRecord(op="lookup", path="/a", result="ENOENT"), 5, "lookup /a: ENOENT"),
        (AccessRecord(op="rename", path="/a", to="/b", result="ok"), 6, "rename /a -> /b: ok"),
        (AccessRecord(op="mount", volume="data", result="ok"), 5, "mount of volume data: ok"),
        (
            AccessRecord(op="unmount", volume="data", result="EIO", reason="killed"),
            3, "unmount of volume data: EIO (killed)",
        ),
    ],
)  # fmt: skip
def test_severity_and_summary(record: AccessRecord, expected: int, line: str) -> None:
    assert (severity(record), summary(record)) == (expected, line)


class Listener:
    """A stream socket whose reader can wait; what it got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self.reads = threading.Event()
        self.got = b""
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _receive(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.shutdown(socket.SHUT_WR)
            self.reads.wait(PATIENCE_S)
            while block := connection.recv(65536):
                self.got += block

    def lines(self) -> list[bytes]:
        self._thread.join(PATIENCE_S)
        return self.got.splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "socket")
    yield listener
    listener.close()


def test_unix_socket_gets_lines_however_slowly_it_reads(listener: Listener) -> None:
    listener.start()
    entries = numbered(600, path="/" + "a" * 2000)
    with open_sink(parse(f"unix:{listener.path}"), timeout_s=TIMEOUT_S) as sink:
        for _ in range(2):
            begin = time.monotonic()
            assert sink.send(entries) == 0
            assert time.monotonic() - begin < PROMPT_S
        listener.reads.set()
        left = entries
        while left:
            left = left[sink.send(left) :]
    assert listener.lines() == [line for line, _record in entries]


def test_what_a_receiver_left_unread_is_not_handed_over(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    for kind, sink_name in ((socket.SOCK_STREAM, "unix"), (socket.SOCK_DGRAM, "journald")):
        with socket.socket(socket.AF_UNIX, kind) as receiver:
            receiver.bind(path)
            if kind == socket.SOCK_STREAM:
                receiver.listen(1)
            with open_sink(parse(f"{sink_name}:{path}"), timeout_s=TIMEOUT_S) as sink:
                connection = receiver.accept()[0] if kind == socket.SOCK_STREAM else receiver
                assert sink.send(numbered(3)) == 0
                connection.close()
                with pytest.raises(OSError, match=re.escape(path)) as raised:
                    sink.send(numbered(3))
                assert raised.value.errno in (errno.ECONNRESET, errno.ECONNREFUSED)
        os.unlink(path)


def test_what_a_receiver_read_before_it_closed_is_handed_over(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as receiver:
        receiver.bind(path)
        receiver.listen(1)
        with open_sink(parse(f"unix:{path}"), timeout_s=TIMEOUT_S) as sink:
            connection = receiver.accept()[0]
            assert sink.send(numbered(3)) == 0
            connection.sendall(b"thanks")
            assert len(connection.recv(65536).splitlines()) == 3
            connection.close()
            assert sink.send(numbered(3)) == 3
            with pytest.raises(BrokenPipeError):
                sink.send(numbered(1))


def test_datagrams_for_a_receiver_that_was_replaced_are_not_handed_over(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second,
    ):
        first.bind(path)
        with open_sink(parse(f"syslog:{path}"), timeout_s=TIMEOUT_S) as sink:
            assert sink.send(numbered(2)) == 0
            os.chmod(path, 0o666)
            for _ in range(2):
                first.recv(65536)
            assert sink.send(numbered(2)) == 2
            assert sink.send(numbered(2)) == 0
            first.close()
            os.unlink(path)
            second.bind(path)
            with pytest.raises(ConnectionResetError):
                sink.send(numbered(2))


@pytest.mark.parametrize("sink", ["unix:", "journald:", "syslog:"])
def test_receiver_that_is_not_there(tmp_path: Path, sink: str) -> None:
    path = tmp_path / "socket"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        open_sink(parse(f"{sink}{path}"))
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(path))
    dead.close()
    with pytest.raises(ConnectionRefusedError):
        open_sink(parse(f"{sink}{path}"))


def test_standard_output_that_nobody_reads_holds_up_nothing() -> None:
    reader, writer = os.pipe()
    entries = numbered(400, path="/" + "a" * 1000)
    with open(reader, "rb") as file:
        with open_sink(parse("stdout"), timeout_s=TIMEOUT_S, stdout=writer) as sink:
            begin = time.monotonic()
            assert sink.send(entries) == 0
            assert time.monotonic() - begin < PROMPT_S
            got: list[bytes] = []
            thread = threading.Thread(target=lambda: got.append(file.read()))
            thread.start()
            assert sink.send(entries) == len(entries)
        os.close(writer)
        thread.join(PATIENCE_S)
    assert got[0].splitlines() == [line for line, _record in entries]


def test_lines_to_a_pipe_stay_whole_among_those_of_others() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(file.read()))
        thread.start()

        def send(name: str) -> None:
            with open_sink(parse("stdout"), timeout_s=10, stdout=writer) as sink:
                entries = numbered(500, path=f"/{name}" * 300)
                assert sink.send(entries) == 500

        threads = [threading.Thread(target=send, args=(name,)) for name in "abc"]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        os.close(writer)
        thread.join(PATIENCE_S)
    paths = [decode(line).path for line in got[0].splitlines()]
    assert len(paths) == 1500
    assert all(path is not None and len(set(path)) == 2 for path in paths)
