"""What a real journald has of the records that were sent to it."""

import json
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fusevol.logagent.sinks import open_sink, parse
from fusevol.logagent.sinks.journal_entry import MESSAGE_IDS
from fusevol.logagent.sinks.message import summary
from fusevol.record.record import AccessRecord, encode
from tests.log.receivers import Journal, journal
from tests.log.records import RECORDS
from tests.log.test_formats import GAP, RENAME
from tests.served import needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def journald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with journal(tmp_path_factory.mktemp("journal")) as receiver:
        yield receiver


def send(receiver: Journal, records: list[AccessRecord]) -> None:
    entries = [(encode(record), record) for record in records]
    with open_sink(parse(f"journald:{receiver.socket}"), timeout_s=10) as sink:
        assert sink.send(entries) == len(entries)


def own_fields(entry: dict[str, bytes]) -> dict[str, bytes]:
    return {
        name.removeprefix("FUSEVOL_").lower(): value
        for name, value in entry.items()
        if name.startswith("FUSEVOL_")
    }


def keys(record: AccessRecord) -> dict[str, bytes]:
    return {key: str(value).encode() for key, value in json.loads(encode(record)).items()}


@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=6))
@example([RENAME, GAP])
def test_every_key_of_every_record_arrives(journald: Journal, records: list[AccessRecord]) -> None:
    send(journald, records)
    entries = journald.entries(len(records))
    assert [own_fields(entry) for entry in entries] == [keys(record) for record in records]
    assert [entry["MESSAGE"].decode() for entry in entries] == [summary(one) for one in records]


def test_entries_can_be_looked_for(journald: Journal) -> None:
    container = "c0ffee" + "5" * 58
    found = msgspec.structs.replace(
        RENAME, seq=7001, path="/report", result="EACCES", container=container
    )
    send(journald, [found, msgspec.structs.replace(GAP, seq=7002)])
    journald.entries(2)
    [entry] = journald.as_json(f"CONTAINER_ID_FULL={container}", "FUSEVOL_PATH=/report")
    assert entry["FUSEVOL_SEQ"] == "7001"
    assert (entry["PRIORITY"], entry["ERRNO"]) == ("4", "13")
    assert entry["CONTAINER_ID"] == container[:12]
    assert entry["_TRANSPORT"] == "journal"
    [gap] = journald.as_json(f"MESSAGE_ID={MESSAGE_IDS['gap']}", "FUSEVOL_SEQ=7002")
    assert (gap["PRIORITY"], gap["FUSEVOL_LOST"]) == ("3", "3")


def test_entry_that_no_datagram_holds(journald: Journal) -> None:
    record = msgspec.structs.replace(GAP, reason="x\n" * 300_000)
    send(journald, [record, GAP])
    entries = journald.entries(2)
    assert [own_fields(entry) for entry in entries] == [keys(record), keys(GAP)]


def test_journal_that_hangs_and_is_started_anew(journald: Journal) -> None:
    """Nothing is lost: what the killed one had not read is sent again, and `seq` tells it."""
    records = [msgspec.structs.replace(RENAME, seq=seq) for seq in range(8001, 8301)]
    entries = [(encode(record), record) for record in records]
    with open_sink(parse(f"journald:{journald.socket}"), timeout_s=0.3) as sink:
        journald.pause()
        assert sink.send(entries) == 0
        journald.go_on()
        left = entries
        while left:
            left = left[sink.send(left) :]
        assert [entry["FUSEVOL_SEQ"] for entry in journald.entries(300)] == [
            str(record.seq).encode() for record in records
        ]
        journald.pause()
        assert sink.send(entries) == 0
        journald.stop()
        with pytest.raises(OSError, match="socket"):
            sink.send(entries)
    journald.start()
    send(journald, records)
    again = {entry["FUSEVOL_SEQ"] for entry in journald.entries(300)}
    assert again == {str(record.seq).encode() for record in records}
