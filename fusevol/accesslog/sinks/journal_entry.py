"""A record as an entry of systemd's journal (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

Every key of the record is a field of its own, FUSEVOL_ and the key in capitals, and holds what the
log holds, whatever bytes that are. So nothing is lost but the difference of numbers and text.
"""

import errno
from collections.abc import Callable
from typing import Final

import msgspec

from fusevol.accesslog.record import EVENTS, AccessRecord
from fusevol.accesslog.sinks.message import severity, summary
from fusevol.accesslog.sinks.spec import FACILITIES

MESSAGE_IDS: Final = {
    "mount": "d13fcdda9588473b88e68811536459d6",
    "unmount": "fa8d8768d29a4e97aa0424fd4c5891d8",
    "gap": "3d75edc2f75e43e69ba999ec3c39fec6",
    "restart": "336f4852d4fa41f8a498240dad11fd21",
}
"""Event -> MESSAGE_ID; never changed, since catalogs and filters name them."""

OTHER_EVENT_ID: Final = "1ba232d4af544dce8de57a9600ad703e"
OPERATION_ID: Final = "e544075d75ac4a81a9aed2a9c8d5afb0"

_ERRNOS: Final = {name: number for number, name in errno.errorcode.items()}
_IDENTIFIER: Final = "fusevol"
_FACILITY: Final = FACILITIES["local0"]
_ID_LENGTH: Final = 64
_SHORT_ID_LENGTH: Final = 12
_NEWLINE: Final = b"\n"
_LENGTH_BYTES: Final = 8


def encoder(
    format_line: Callable[[AccessRecord], bytes] | None,
) -> Callable[[AccessRecord], bytes]:
    """Return what makes entries whose MESSAGE is a line as `format_line` makes it, else for people.

    Entries are in the form of the native protocol, which is that of `journalctl -o export`, too.
    """

    def encode(record: AccessRecord) -> bytes:
        message = summary(record).encode() if format_line is None else format_line(record)
        return b"".join(
            _field(name, value if isinstance(value, bytes) else _bytes(value))
            for name, value in (("MESSAGE", message), *_fields(record))
        )

    return encode


def _fields(record: AccessRecord) -> list[tuple[str, str | int]]:
    fields: list[tuple[str, str | int]] = [
        ("PRIORITY", severity(record)),
        ("SYSLOG_IDENTIFIER", _IDENTIFIER),
        ("SYSLOG_FACILITY", _FACILITY),
        ("MESSAGE_ID", _message_id(record)),
    ]
    if record.result in _ERRNOS:
        fields.append(("ERRNO", _ERRNOS[record.result]))
    if record.container is not None:
        # As Docker's journald driver names them, so that one filter finds both.
        fields.append(("CONTAINER_ID_FULL", record.container))
        is_id = len(record.container) == _ID_LENGTH
        short = record.container[:_SHORT_ID_LENGTH] if is_id else record.container
        fields.append(("CONTAINER_ID", short))
    fields.extend(
        (f"FUSEVOL_{key.upper()}", value)
        for key, value in msgspec.structs.asdict(record).items()
        if value is not None
    )
    return fields


def _message_id(record: AccessRecord) -> str:
    if record.op in EVENTS:
        return MESSAGE_IDS.get(record.op, OTHER_EVENT_ID)
    return OPERATION_ID


def _bytes(value: str | int) -> bytes:
    return str(value).encode(errors="backslashreplace")


def _field(name: str, value: bytes) -> bytes:
    if _NEWLINE in value:
        length = len(value).to_bytes(_LENGTH_BYTES, "little")
        return b"%b\n%b%b\n" % (name.encode(), length, value)
    return b"%b=%b\n" % (name.encode(), value)
