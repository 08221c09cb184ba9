"""The messages from a keeper to its log agent, and back."""

from typing import Final

import msgspec

from fusevol.options.log import LogOptions

MODULE: Final = "fusevol.logagent.main"
"""What the process of an agent runs."""

MESSAGE_BYTES: Final = 1 << 16
"""Longest message to an agent."""

REOPEN: Final = b"r"
"""Asks for the log to be reopened, as it was renamed."""


AT_WORK: Final = b"w"
"""Says that the agent has begun its work."""


class AgentStart(msgspec.Struct):
    """What an agent is for; the first message to it.

    Attributes:
        log: path of the log, in the encoding of `fusevol.names`.
        options: of the log.
        begin: a sink without a position gets the records behind this number.
    """

    log: str
    options: LogOptions
    begin: int
