"""Strategies for access records: whatever a volume can bring about, and names of any bytes."""

import errno
from datetime import datetime
from typing import Any, Final, get_type_hints

from hypothesis import strategies as st

from fusevol.names import encode_name
from fusevol.record.record import EVENTS, OK, OPERATIONS, AccessRecord, encode, errno_name
from fusevol.record.times import Timestamps

MAX_INT64: Final = 2**63 - 1

NAMES: Final = st.binary(max_size=40).map(encode_name) | st.text(max_size=20)
"""What stands for names in the log: of all bytes, and of the characters that are hard to show."""
PATHS: Final = NAMES.map(lambda name: f"/{name}")
TIMES: Final = st.integers(
    int(datetime(1970, 1, 1).timestamp()), int(datetime(2200, 1, 1).timestamp())
).flatmap(
    lambda second: st.integers(0, 999_999).map(
        lambda us: Timestamps().of((second * 1_000_000 + us) * 1000)
    )
)
RESULTS: Final = st.sampled_from([OK, *errno.errorcode.values()]) | st.integers(1, 4095).map(
    errno_name
)
IDS: Final = st.integers(0, 2**32 - 1)
COUNTS: Final = st.integers(0, MAX_INT64)

_REQUIRED: Final[dict[str, st.SearchStrategy[Any]]] = {
    "time": TIMES,
    "seq": COUNTS,
    "volume": NAMES,
    "result": RESULTS,
    # What is left of a year longer than the universe, in nanoseconds, fits in 64 bits.
    "us": st.integers(0, 2**53),
}
_SPECIAL: Final[dict[str, st.SearchStrategy[Any]]] = {
    "path": PATHS,
    "to": PATHS,
    "ino": st.integers(1, 2**64 - 1),
    "owner": IDS,
    "group": IDS,
}
_BY_TYPE: Final[dict[Any, st.SearchStrategy[Any]]] = {str | None: NAMES, int | None: COUNTS}
_CALLER: Final = ("uid", "gid", "pid")


def _optional() -> dict[str, st.SearchStrategy[Any]]:
    hints = get_type_hints(AccessRecord)
    keys = (
        key
        for key in AccessRecord.__struct_fields__
        if key not in {*_REQUIRED, *_CALLER, "op", "comm", "container"}
    )
    return {key: st.none() | _SPECIAL.get(key, _BY_TYPE.get(hints[key], st.none())) for key in keys}


OPERATION_RECORDS: Final = st.builds(
    AccessRecord,
    op=st.sampled_from(OPERATIONS),
    uid=IDS,
    gid=IDS,
    pid=IDS,
    comm=st.none() | NAMES,
    container=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64) | NAMES,
    **_REQUIRED,
    **_optional(),
)
EVENT_RECORDS: Final = st.builds(
    AccessRecord, op=st.sampled_from(EVENTS), **_REQUIRED, **_optional()
)
RECORDS: Final = OPERATION_RECORDS | EVENT_RECORDS


def make(seq: int, op: str = "read", us: int = 5, **keys: Any) -> AccessRecord:
    """Return a record of which `keys` say what is not as usual."""
    record = AccessRecord(
        time=f"2026-11-23T10:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z",
        seq=seq, volume="data", op=op, path="/a", result="ok", us=us, uid=0, pid=1, comm="sh",
    )  # fmt: skip
    for key, value in keys.items():
        setattr(record, key, value)
    return record


def text(*records: AccessRecord) -> bytes:
    """Return a log."""
    return b"".join(encode(record) + b"\n" for record in records)
