"""A record as an entry of systemd's journal (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).

Every key of the record is a field of its own, FUSEVOL_ and the key in capitals, and holds what the
log holds, whatever bytes that are. So nothing is lost but the difference of numbers and text.
"""

import errno
from collections.abc import Callable
from typing import Final

from fusevol.logagent.sinks.message import severity, summary
from fusevol.logagent.sinks.spec import FACILITIES
from fusevol.record.container_ids import short_form
from fusevol.record.formats.documents import to_document
from fusevol.record.record import EVENTS, AccessRecord

MESSAGE_IDS: Final = {
    "mount": "d13fcdda9588473b88e68811536459d6",
    "unmount": "fa8d8768d29a4e97aa0424fd4c5891d8",
    "gap": "3d75edc2f75e43e69ba999ec3c39fec6",
    "restart": "336f4852d4fa41f8a498240dad11fd21",
}
"""Event -> MESSAGE_ID; never changed, since catalogs and filters name them."""

OTHER_EVENT_ID: Final = "1ba232d4af544dce8de57a9600ad703e"
OPERATION_ID: Final = "e544075d75ac4a81a9aed2a9c8d5afb0"

_CONSTANT: Final = f"SYSLOG_IDENTIFIER=fusevol\nSYSLOG_FACILITY={FACILITIES['local0']}\n"
_NAMES: Final = {key: f"FUSEVOL_{key.upper()}" for key in AccessRecord.__struct_fields__}
_ERRNOS: Final = {name: number for number, name in errno.errorcode.items()}
_LENGTH_BYTES: Final = 8


def encoder(
    format_line: Callable[[AccessRecord], bytes] | None,
) -> Callable[[AccessRecord], bytes]:
    """Return what makes entries whose MESSAGE is a line as `format_line` makes it, else for people.

    Entries are in the form of the native protocol, which is that of `journalctl -o export`, too.
    """

    def encode(record: AccessRecord) -> bytes:
        message = summary(record).encode() if format_line is None else format_line(record)
        fields = [_field(_NAMES[key], value) for key, value in to_document(record).items()]
        if record.container is not None:
            fields += _container(record.container)
        return b"MESSAGE=%b\n%b%b" % (message, _described(record).encode(), b"".join(fields))

    return encode


def _described(record: AccessRecord) -> str:
    identity = OPERATION_ID
    if record.op in EVENTS:
        identity = MESSAGE_IDS.get(record.op, OTHER_EVENT_ID)
    number = _ERRNOS.get(record.result)
    error = f"ERRNO={number}\n" if number is not None else ""
    return f"{_CONSTANT}PRIORITY={severity(record)}\nMESSAGE_ID={identity}\n{error}"


def _container(container: str) -> tuple[bytes, bytes]:
    """Name it as Docker's journald driver does, so that one filter finds both."""
    short = short_form(container)
    return _field("CONTAINER_ID_FULL", container), _field("CONTAINER_ID", short)


def _field(name: str, value: str | int) -> bytes:
    field = f"{name}={value}\n".encode(errors="backslashreplace")
    if field.find(b"\n") == len(field) - 1:
        return field
    data = field[len(name) + 1 :]
    length = (len(data) - 1).to_bytes(_LENGTH_BYTES, "little")
    return b"%b\n%b%b" % (name.encode(), length, data)
