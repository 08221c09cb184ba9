"""What a real rsyslogd makes of the messages that were sent to it."""

import json
import os
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fusevol.logagent.sinks import open_sink, parse
from fusevol.logagent.sinks.message import severity, summary
from fusevol.logagent.sinks.rfc5424 import CUT, MAX_MESSAGE_BYTES
from fusevol.record.record import AccessRecord, decode, encode
from tests.log.receivers import Rsyslog, rsyslog
from tests.log.records import RECORDS
from tests.log.test_formats import GAP, HOSTILE, RENAME
from tests.log.test_sinks import ENTERPRISE, meaning, with_names
from tests.served import needs_root

pytestmark = needs_root

LOCAL3: Final = 19
END_OF_CALENDAR: Final = "2100"
"""rsyslog takes later years for damage."""


@pytest.fixture(scope="module")
def rsyslogd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rsyslog]:
    with rsyslog(tmp_path_factory.mktemp("rsyslog")) as receiver:
        yield receiver


def send(sink: str, records: list[AccessRecord]) -> None:
    entries = [(encode(record), record) for record in records]
    with open_sink(parse(sink), timeout_s=10) as opened:
        assert opened.send(entries) == len(entries)


each_socket = pytest.mark.parametrize("socket", ["datagram", "stream"])


@each_socket
@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    records=st.lists(
        RECORDS.filter(lambda record: record.time < END_OF_CALENDAR).map(with_names),
        min_size=1, max_size=6,
    )
)  # fmt: skip
@example(records=[RENAME, GAP])
def test_every_key_of_every_record_arrives(
    rsyslogd: Rsyslog, socket: str, records: list[AccessRecord]
) -> None:
    path = getattr(rsyslogd, socket)
    send(f"syslog:{path}:facility=local3:enterprise={ENTERPRISE}", records)
    for message, record in zip(rsyslogd.messages(len(records)), records, strict=True):
        expected = json.loads(encode(record))
        assert message["time"] == expected.pop("time")
        assert message["priority"] == str(LOCAL3 * 8 + severity(record))
        assert message["host"] == os.uname().nodename
        assert (message["application"], message["id"]) == ("fusevol", record.op)
        assert message["process"] == str(os.getpid())
        assert message["message"].removeprefix("\ufeff") == summary(record)
        elements = json.loads(message["elements"])
        assert meaning(elements[f"fusevol@{ENTERPRISE}"]) == meaning(expected)


@each_socket
def test_message_in_json_arrives_as_it_is(rsyslogd: Rsyslog, socket: str) -> None:
    send(f"syslog:{getattr(rsyslogd, socket)}", [RENAME, GAP])
    for message, record in zip(rsyslogd.messages(2), [RENAME, GAP], strict=True):
        assert decode(message["message"].encode()) == record
        assert message["raw"].isprintable()


@each_socket
def test_long_message_is_cut_by_fusevol_rather_than_by_rsyslog(
    rsyslogd: Rsyslog, socket: str
) -> None:
    long = msgspec.structs.replace(RENAME, path="/" + HOSTILE * 100, to="/" + "\u6f22" * 1300)
    send(f"syslog:{getattr(rsyslogd, socket)}", [long, GAP])
    cut, whole = rsyslogd.messages(2)
    assert MAX_MESSAGE_BYTES / 2 < len(cut["raw"].encode()) <= MAX_MESSAGE_BYTES
    received = decode(cut["message"].encode())
    assert received.path is not None
    assert received.path.endswith(CUT)
    assert (received.seq, received.comm) == (RENAME.seq, RENAME.comm)
    assert decode(whole["message"].encode()) == GAP
