"""From the name of a sink to the sink."""

import errno
from collections.abc import Callable
from typing import Final

from fusevol.logagent.sinks import journal_entry, rfc5424
from fusevol.logagent.sinks.message import summary
from fusevol.logagent.sinks.sink import Sink
from fusevol.logagent.sinks.spec import FACILITIES, SinkKind, SinkSpec
from fusevol.logagent.sinks.unix_socket import Datagrams, DescriptorSink, SinkConnection, Stream
from fusevol.options.log import LogFormat
from fusevol.record import formats
from fusevol.record.record import AccessRecord

TIMEOUT_S: Final = 2.0
_STDOUT: Final = 1

Encode = Callable[[AccessRecord], bytes]


def open_sink(spec: SinkSpec, *, timeout_s: float = TIMEOUT_S, stdout: int = _STDOUT) -> Sink:
    """Return a sink that is connected.

    Args:
        spec: which.
        timeout_s: seconds that `Sink.send` may take.
        stdout: descriptor for the target stdout; it is duplicated.

    Raises:
        OSError: nobody is there.
    """
    if spec.target is SinkKind.JOURNALD:
        message = formats.encoder(spec.format) if spec.format is not None else None
        return Sink(Datagrams(spec.path), journal_entry.encoder(message), timeout_s)
    if spec.target is SinkKind.SYSLOG:
        return _syslog(spec, timeout_s)
    connection = Stream(spec.path) if spec.target is SinkKind.UNIX else DescriptorSink(stdout)
    return Sink(connection, _lines(formats.encoder(spec.format or LogFormat.JSON)), timeout_s)


def _syslog(spec: SinkSpec, timeout_s: float) -> Sink:
    encode = rfc5424.encoder(_message(spec), FACILITIES[spec.facility], spec.enterprise)
    connection: SinkConnection
    try:
        connection = Datagrams(spec.path)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
        # Newlines end messages there: all receivers know that way, and no message holds one.
        return Sink(Stream(spec.path), _lines(encode), timeout_s)
    return Sink(connection, encode, timeout_s)


def _message(spec: SinkSpec) -> Encode:
    if spec.format is not None:
        return formats.encoder(spec.format)
    if spec.enterprise is None:
        return formats.encoder(LogFormat.JSON)
    return lambda record: summary(record).encode()


def _lines(encode: Encode) -> Encode:
    return lambda record: encode(record) + b"\n"
