"""One rule for containers: ids may be cut and meant by their beginning, names neither."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.logagent.sinks import journal_entry
from fusevol.logagent.sinks.message import summary
from fusevol.logs.filter import Filter
from fusevol.record.container_ids import container_check, is_full_id, short_form
from fusevol.record.record import AccessRecord
from fusevol.record.text import format_record
from fusevol.recording.filter_rules import parse_rules

ID: Final = "4d5e" * 16
BUILDKIT: Final = "abcdefghijklmnopqrstuvwx0"
NAMES: Final = ("postgres-primary", "cafe01", "cafe", "deadbeefdeadbeef", BUILDKIT, "4d5e4d5e4d5e",
                "g" * 64, "4D5E" * 16, "4d5e" * 16 + "\n")  # fmt: skip


def test_an_id_is_cut_and_a_name_is_not() -> None:
    assert short_form(ID) == "4d5e4d5e4d5e"
    for name in NAMES:
        assert not is_full_id(name)
        assert short_form(name) == name


@pytest.mark.parametrize("name", [ID, "postgres-primary", "deadbeefdeadbeef", BUILDKIT, "g" * 64])
def test_every_way_to_show_a_record_keeps_a_name_whole(name: str) -> None:
    record = AccessRecord(
        time="2026-11-24T10:00:00.000000Z", seq=1, volume="data", op="mkdir", path="/d",
        result="ok", us=1, uid=0, gid=0, pid=7, comm="sh", container=name,
    )  # fmt: skip
    shown = "4d5e4d5e4d5e" if name == ID else name
    assert summary(record).endswith(f" in {shown}")
    assert format_record(record).endswith(f" {shown}")
    fields = journal_entry.encoder(None)(record).decode().splitlines()
    assert f"CONTAINER_ID={shown}" in fields
    assert f"CONTAINER_ID_FULL={name}" in fields


@pytest.mark.parametrize(
    ("wanted", "container", "matches"),
    [
        ("4d5e", ID, True),
        (ID, ID, True),
        ("d5e", ID, False),
        ("ca", "cafe01", False),
        ("cafe", "cafe01", False),
        ("cafe01", "cafe01", True),
        ("postgres", "postgres-primary", False),
        ("a", BUILDKIT, False),
        ("4", "4d5e4d5e4d5e", False),
        ("4d5e" * 16 + "4", ID, False),
        ("-", None, True),
        ("-", ID, False),
        ("4d5e", None, False),
    ],
)
def test_what_is_asked_for(wanted: str, container: str | None, matches: bool) -> None:
    record = AccessRecord(op="open", pid=1, container=container)
    assert container_check([wanted])(record) is matches


@given(
    st.lists(st.sampled_from(("-", ID, "4d", "ca", *NAMES[:-1])), min_size=1, max_size=3),
    st.none() | st.sampled_from((ID, *NAMES)),
    st.none() | st.just(1),
)
def test_rules_and_filters_mean_the_same(
    wanted: list[str], container: str | None, pid: int | None
) -> None:
    record = AccessRecord(op="open", result="ok", pid=pid, container=container)
    (rule,) = parse_rules("include", f"container={'|'.join(wanted)}")
    in_rules = all(check(record) for check in rule.checks)
    assert in_rules == Filter(containers=tuple(wanted)).compile()(record)
