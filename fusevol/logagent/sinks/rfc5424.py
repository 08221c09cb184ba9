r"""A record as a message of the syslog protocol (RFC 5424).

    <134>1 2026-11-24T02:03:07.816699Z host fusevol 812 write - {"time":"2026-11-24T02:...

The message is the line of some format. With a private enterprise number the keys stand besides in
an element of STRUCTURED-DATA, for which RFC 5424 wants a number that is registered for whoever
gives the element its name; fusevol has none.

Nothing of a message is a control character, or would be invisible: structured data has `\xHH`
instead for each byte of it, which means the same name in the encoding of names. Nor is a message
longer than what receivers commonly take: the longest texts of a record are cut then, and end with
CUT.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from typing import Final

import msgspec

from fusevol.logagent.sinks.message import severity
from fusevol.record.formats.documents import epoch_us, to_document
from fusevol.record.record import AccessRecord, MalformedRecordError
from fusevol.terminal import printable

MAX_MESSAGE_BYTES: Final = 8000
"""rsyslog silently cuts at 8,096 bytes, unless configured otherwise."""

CUT: Final = r"\..."
"""What ends a text that was cut; no name in the log has a backslash before a dot."""

SD_NAME: Final = "fusevol"

_APP_NAME: Final = "fusevol"
_NIL: Final = "-"
_BOM: Final = b"\xef\xbb\xbf"
_LONGEST_HOSTNAME: Final = 255
_LONGEST_MSGID: Final = 32

_PLAIN: Final = re.compile(r"[ !#-\[^-~]*")
_NOT_PLAIN: Final = re.compile("[^\\x20-\\x7e]")
_SPECIAL: Final = re.compile(r'(["\\\]])')
_NOT_GRAPHIC: Final = re.compile(r"[^!-~]")
_WHOLE_ESCAPES: Final = re.compile(r"(?:[^\\]|\\\\|\\x[0-9a-f]{2})*+")


def encoder(
    format_line: Callable[[AccessRecord], bytes], facility: int, enterprise: int | None
) -> Callable[[AccessRecord], bytes]:
    """Return what makes messages of records.

    Args:
        format_line: makes the text of the message.
        facility: number of a facility.
        enterprise: private enterprise number; None for no structured data.
    """

    def encode(record: AccessRecord) -> bytes:
        while True:
            header = _header(record, facility)
            data = _structured_data(record, enterprise) if enterprise is not None else _NIL
            encoded = b"%b %b %b" % (
                header.encode(),
                data.encode(errors="backslashreplace"),
                _message(format_line(record)),
            )
            if len(encoded) <= MAX_MESSAGE_BYTES or (shorter := _shortened(record)) is None:
                return encoded
            record = shorter

    return encode


def _header(record: AccessRecord, facility: int) -> str:
    priority = facility * 8 + severity(record)
    time = record.time if _is_time(record.time) else _NIL
    return (
        f"<{priority}>1 {time} {_host_name()} {_APP_NAME} {os.getpid()} "
        f"{_word(record.op, _LONGEST_MSGID)}"
    )


def _is_time(text: str) -> bool:
    try:
        epoch_us(text)
    except MalformedRecordError:
        return False
    return True


@cache
def _host_name() -> str:
    return _word(os.uname().nodename, _LONGEST_HOSTNAME)


def _word(text: str, length: int) -> str:
    return _NOT_GRAPHIC.sub("?", text)[:length] or _NIL


def _structured_data(record: AccessRecord, enterprise: int) -> str:
    document = to_document(record)
    if _is_time(record.time):
        del document["time"]
    parameters = "".join([f' {key}="{_parameter(value)}"' for key, value in document.items()])
    return f"[{SD_NAME}@{enterprise}{parameters}]"


def _parameter(value: str | int) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return _SPECIAL.sub(r"\\\1", _NOT_PLAIN.sub(_shown, text))


def _shown(character: re.Match[str]) -> str:
    if printable(character[0]) == character[0]:
        return character[0]
    return "".join(f"\\x{byte:02x}" for byte in character[0].encode(errors="backslashreplace"))


def _message(line: bytes) -> bytes:
    """Return a line so that it says by itself which encoding it has."""
    if line.startswith(b"{"):
        # JSON has a way to do without other characters, and its readers take no mark.
        return _NOT_PLAIN.sub(_json_escape, line.decode()).encode()
    return line if line.isascii() else _BOM + line


def _json_escape(character: re.Match[str]) -> str:
    units = character[0].encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _shortened(record: AccessRecord) -> AccessRecord | None:
    """Return the record with its longest text cut to half; None if there is none to cut."""
    texts = {
        key: value
        for key, value in msgspec.structs.asdict(record).items()
        if isinstance(value, str) and key != "time"
    }
    key = max(texts, key=lambda key: len(texts[key]))
    text = texts[key].removesuffix(CUT)
    if len(text) <= len(CUT):
        return None
    kept = _WHOLE_ESCAPES.match(text[: len(text) // 2])
    return msgspec.structs.replace(record, **{key: (kept[0] if kept else "") + CUT})
