r"""The access log of JuiceFS, a text line per record, for `juicefs profile` and its like.

    2026.11.24 02:03:07.816699 [uid:0,gid:0,pid:17185] write (2148141,6,0,seq:8,...) - OK <0.000035>

The parentheses begin, as in JuiceFS, with the inode (0 if there is none), for reads and writes then
size and offset. The other keys follow by name, texts as in JSON. JuiceFS writes local times and
does not say which; here they are UTC, as in the native log.

JuiceFS has a caller for each line. Here one that is missing is 0, which is what `decode` makes of
it, too, except for fusevol's own events.
"""

import re
from typing import Final

import msgspec

from fusevol.record.bounds import LONGEST_LINE_BYTES
from fusevol.record.formats.documents import Document, epoch_us, matched, to_document, to_record
from fusevol.record.record import EVENTS, OK, AccessRecord, MalformedRecordError
from fusevol.terminal import printable, printable_json

MAX_LINE_BYTES: Final = LONGEST_LINE_BYTES - 2
"""What `juicefs profile` can read (bufio.MaxScanTokenSize, with newline); more would end it. Only
records of logs that were begun before records had a bound make longer ones."""

_OK: Final = "OK"
_CALLER: Final = ("uid", "gid", "pid")

_LINE: Final = re.compile(
    r"(?P<time>[0-9.]{10} [0-9:.]{15})"
    r" \[uid:(?P<uid>-?[0-9]+),gid:(?P<gid>-?[0-9]+),pid:(?P<pid>-?[0-9]+)\]"
    r" (?P<op>\S+)"
    r" \((?P<ino>-?[0-9]+)(?:,(?P<size>-?[0-9]+),(?P<offset>-?[0-9]+))?"
    r'(?P<others>(?:,\w+:(?:-?[0-9]+|"(?:[^"\\]|\\.)*+"))*+)\)'
    r" - (?P<result>.+) <(?P<seconds>[0-9]+)\.(?P<fraction>[0-9]{6})>",
    re.ASCII | re.DOTALL,
)
_OTHER: Final = re.compile(r',(\w+):(-?[0-9]+|"(?:[^"\\]|\\.)*+")', re.ASCII | re.DOTALL)


def encode(record: AccessRecord) -> bytes:
    """Return the record as a line of JuiceFS's access log.

    Raises:
        MalformedRecordError: its time, operation or result is none, or the line would be longer
            than what JuiceFS reads.
    """
    epoch_us(record.time)
    own = to_document(record)
    result = own.pop("result")
    if not record.op.isidentifier() or result.isspace() or printable(result) != result:
        raise MalformedRecordError("operation and result must be plain words")
    date, _, clock = own.pop("time").removesuffix("Z").partition("T")
    caller = ",".join(f"{key}:{own.pop(key, 0)}" for key in _CALLER)
    seconds, fraction = divmod(own.pop("us"), 1_000_000)
    del own["op"]
    line = (
        f"{date.replace('-', '.')} {clock} [{caller}] {record.op} ({_arguments(record, own)})"
        f" - {_OK if result == OK else result} <{seconds}.{fraction:06d}>"
    ).encode()
    if len(line) > MAX_LINE_BYTES:
        raise MalformedRecordError(f"longer than the {MAX_LINE_BYTES} bytes that JuiceFS can read")
    return line


def decode(line: bytes) -> AccessRecord:
    """Return the record in a line that `encode` made.

    Raises:
        MalformedRecordError: it is none.
    """
    parts = matched(_LINE, line, "not a line of a JuiceFS access log")
    date, _, clock = parts["time"].partition(" ")
    own: Document = {
        "time": f"{date.replace('.', '-')}T{clock}Z",
        "op": parts["op"],
        "result": OK if parts["result"] == _OK else parts["result"],
        "us": int(parts["seconds"]) * 1_000_000 + int(parts["fraction"]),
    }
    for key in ("ino", "size", "offset"):
        if parts[key] is not None:
            own[key] = int(parts[key])
    if own["ino"] == 0:
        del own["ino"]
    if own["op"] not in EVENTS:
        own.update((key, int(parts[key])) for key in _CALLER)
    for key, value in _OTHER.findall(parts["others"]):
        own[key] = _value(value)
    return to_record(own)


def _arguments(record: AccessRecord, own: Document) -> str:
    arguments = [str(own.pop("ino", 0))]
    if record.op in ("read", "write") and "size" in own and "offset" in own:
        arguments += (str(own.pop("size")), str(own.pop("offset")))
    arguments += (f"{key}:{_text(value)}" for key, value in own.items())
    return ",".join(arguments)


def _text(value: str | int) -> str:
    return printable_json(msgspec.json.encode(value)).decode()


def _value(text: str) -> str | int:
    try:
        return msgspec.json.decode(text, type=str | int)
    except msgspec.DecodeError as error:
        raise MalformedRecordError(str(error)) from error
