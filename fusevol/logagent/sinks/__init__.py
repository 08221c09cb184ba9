"""Sinks: where records go besides the file: journald, syslog, a Unix socket, standard output.

`parse` makes a specification of the words of a user, `open_sink` connects, `Sink.send` sends. None
of this waits longer than a given time, remembers what was sent or tries again: that is done by who
follows the log (`fusevol.logagent`), since the file is the queue.
"""

from fusevol.logagent.sinks.opening import open_sink
from fusevol.logagent.sinks.spec import SinkSpec, parse, parse_all

__all__ = ["SinkSpec", "open_sink", "parse", "parse_all"]
