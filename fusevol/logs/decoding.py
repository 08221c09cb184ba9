"""Many lines of a log decoded at once, whole or with some keys only.

A line is judged by the keys that are asked for: one that has the others wrong counts as a record.
"""

import io
import re
from collections.abc import Iterable
from typing import Final, cast, get_type_hints

import msgspec

from fusevol.logs.lines import MAX_LINE_BYTES
from fusevol.logs.reader import parse
from fusevol.record.record import AccessRecord

_REQUIRED: Final = ("time", "seq", "op", "result", "us")
"""Keys without which a line is not a record; see `record.decode`."""

_ENDS: Final = re.compile(rb"}\n{")  # Counts faster than bytes.count.
_INNER_END: Final = re.compile(rb"}(?!\n{|\Z)")

_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def projection(keys: Iterable[str]) -> type[AccessRecord]:
    """Return a type for records that have `keys` and the required ones, and no others.

    It is not an AccessRecord, but serves as one if only these keys are used, and is
    made in two thirds of the time.
    """
    hints = get_type_hints(AccessRecord)
    wanted = {*_REQUIRED, *keys}
    fields = [
        (key, hints[key], default)
        for key, default in zip(
            AccessRecord.__struct_fields__, AccessRecord.__struct_defaults__, strict=True
        )
        if key in wanted
    ]
    made = msgspec.defstruct("Projection", fields, gc=False)
    return cast("type[AccessRecord]", made)


class LineDecoder:
    """Makes records of lines."""

    def __init__(self, kind: type[AccessRecord]) -> None:
        """Prepare to make records that are AccessRecords or a `projection` of them."""
        decoder = msgspec.json.Decoder(kind)
        self._decode = decoder.decode
        self._decode_lines = decoder.decode_lines

    def all_json(self, block: bytes) -> list[AccessRecord] | None:
        """Return the records of lines that are all JSON, None if one of them is not such a record.

        That takes two thirds of the time of one after the other.
        """
        if len(block) > MAX_LINE_BYTES or not block or block.endswith(b"\n"):
            return None
        lines = len(io.BytesIO(block).readlines())  # That is faster than to count newlines.
        # The decoder takes a newline for any other space. One between } and { ends a value for
        # sure, so that as many values as lines are one on each. Names seldom hold a }.
        if _INNER_END.search(block) and len(_ENDS.findall(block)) != lines - 1:
            return None
        try:
            records = self._decode_lines(block)
        except _ERRORS:
            return None
        if len(records) != lines:
            return None
        # As in `record.decode`.
        for one in records:
            if not one.time or one.seq < 0 or not one.op or not one.result or one.us < 0:
                return None
        return records

    def one(self, line: bytes) -> AccessRecord:
        """Return the record in a line, in whichever format it is.

        Raises:
            MalformedRecordError: it is not a record, or too long.
        """
        if len(line) <= MAX_LINE_BYTES:
            try:
                one = self._decode(line)
            except _ERRORS:
                return parse(line)
            if one.time and one.seq >= 0 and one.op and one.result and one.us >= 0:
                return one
        return parse(line)
