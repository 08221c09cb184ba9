"""A strict parser of the syslog protocol, by the grammar of RFC 5424 (section 6)."""

import re
from typing import Final, NamedTuple

_NAME: Final = rb"[!#-<>-\\^-~]{1,32}"
_VALUE: Final = rb'(?:[^"\\\]]|\\["\\\]])*+'
_ELEMENT: Final = re.compile(rb'\[(%b)((?: %b="%b")*+)\]' % (_NAME, _NAME, _VALUE), re.DOTALL)
_PARAMETER: Final = re.compile(rb' (%b)="(%b)"' % (_NAME, _VALUE), re.DOTALL)
_HEADER: Final = re.compile(
    rb"<([0-9]{1,3})>1"
    rb" (-|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z)"
    rb" ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
)
_BOM: Final = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """A message and its structured data, element by element."""

    priority: int
    time: str
    host: str
    application: str
    process: str
    id: str
    elements: dict[str, dict[str, str]]
    text: str


def parse(message: bytes) -> Message:
    header = _HEADER.match(message)
    assert header, message
    elements, position = _structured_data(message, header.end())
    assert message[position : position + 1] in (b"", b" ")
    text = message[position + 1 :]
    if not text.startswith(_BOM):
        # Only with the mark it is said to be UTF-8.
        assert text.isascii()
    priority, moment, host, application, process, id_ = (part.decode() for part in header.groups())
    return Message(
        int(priority), moment, host, application, process, id_, elements,
        text.removeprefix(_BOM).decode(),
    )  # fmt: skip


def _structured_data(message: bytes, position: int) -> tuple[dict[str, dict[str, str]], int]:
    if message.startswith(b"-", position):
        return {}, position + 1
    elements = {}
    while element := _ELEMENT.match(message, position):
        elements[element[1].decode()] = {
            name.decode(): re.sub(rb'\\(["\\\]])', rb"\1", value).decode()
            for name, value in _PARAMETER.findall(element[2])
        }
        position = element.end()
    assert elements, message
    return elements, position
