"""What journald and syslog ask of a record besides its keys: how severe, and in one line, what."""

from typing import Final

from fusevol.record.container_ids import short_form
from fusevol.record.record import EVENTS, OK, AccessRecord
from fusevol.terminal import quoted

ERROR, WARNING, NOTICE, INFORMATIONAL = 3, 4, 5, 6
"""Severities of RFC 5424, and of syslog(3)."""

_SERIOUS: Final = frozenset({
    "EACCES", "EPERM", "EROFS", "EIO", "ENOSPC", "EDQUOT", "ENFILE", "EMFILE", "ESTALE",
})  # fmt: skip
"""What was refused, or points to trouble on the host; other failures are common, such as ENOENT."""


def severity(record: AccessRecord) -> int:
    """Return how severe the event of a record is."""
    if record.op == "gap":
        return ERROR
    if record.op in EVENTS:
        return NOTICE if record.result == OK else ERROR
    if record.result == OK:
        return INFORMATIONAL
    return WARNING if record.result in _SERIOUS else NOTICE


def summary(record: AccessRecord) -> str:
    """Return one printable line for people, without the time."""
    if record.op == "gap":
        lost = "some" if record.lost is None else record.lost
        return f"{lost} operations were not recorded{_reason(record)}"
    if record.path is None:
        return f"{quoted(record.op)} of volume {quoted(record.volume)}: {_result(record)}"
    leads_to = record.to if record.to is not None else record.target
    where = quoted(record.path) + (f" -> {quoted(leads_to)}" if leads_to is not None else "")
    return f"{quoted(record.op)} {where}: {_result(record)}{_caller(record)}"


def _result(record: AccessRecord) -> str:
    return f"{quoted(record.result)}{_reason(record)}"


def _reason(record: AccessRecord) -> str:
    return f" ({quoted(record.reason)})" if record.reason is not None else ""


def _caller(record: AccessRecord) -> str:
    if record.pid is None:
        return ""
    name = quoted(record.comm) if record.comm is not None else "process"
    where = f" in {quoted(short_form(record.container))}" if record.container is not None else ""
    if record.identity_error is not None:
        where += f" (not looked up: {quoted(record.identity_error)})"
    return f", by {name}[{record.pid}], uid {record.uid}{where}"
