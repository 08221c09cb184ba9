"""The process of a log agent: `python -m fusevol.logagent.main FD`.

FD is a socket to the keeper. The first message on it is an `AgentStart`. A second one says that the
mount has ended, and names the file of its messages. When it closes, the agent ends. What the
agent sends on it, one byte at a time, asks for the log to be reopened.
"""

import contextlib
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from fusevol.errors import FusevolError, NotFoundError
from fusevol.linux.files import remove_if_empty
from fusevol.logagent import status
from fusevol.logagent.positions import Position, PositionsFile
from fusevol.logagent.retention import Retention
from fusevol.logagent.rotation import Rotation
from fusevol.logagent.start import AT_WORK, MESSAGE_BYTES, REOPEN, AgentStart
from fusevol.logs.log_end import end_of_file, end_of_log
from fusevol.logs.reader import last_record
from fusevol.names import decode_name
from fusevol.proof.ledger import forget
from fusevol.recording.log_state import known_of

if TYPE_CHECKING:
    from fusevol.logagent.forwarding import Forwarder

_TICK_S: Final = 0.25
_KEEP_S: Final = 2.0
"""How often it is written down how far sinks have got."""
_RETAIN_S: Final = 5.0
_DRAIN_S: Final = 5.0
_NICENESS: Final = 5

logger = logging.getLogger(__name__)


class Agent:
    """Looks after one log until its keeper closes the channel."""

    def __init__(self, start: AgentStart, channel: socket.socket) -> None:
        """Prepare; waits for an earlier agent of the log.

        Raises:
            FusevolError: another agent is at work, or the log cannot be read.
        """
        self._log = os.fsdecode(decode_name(start.log))
        self._channel = channel
        self._positions = PositionsFile(self._log)
        self._kept = self._positions.load()
        self._forwarders = [self._forwarder(sink, start.begin) for sink in start.options.sinks]
        self._rotation = Rotation(self._log, start.options, self._ask_to_reopen)
        self._retention = Retention(self._log, start.options, self._about_to_remove)
        self._said: dict[str, str] = {}
        self._newest = 0
        self._saw(end_of_log(self._log).seq)
        # Where a new sink begins stays what it is, whatever becomes of this process.
        self._keep_positions()

    def _forwarder(self, sink: str, begin: int) -> "Forwarder":
        # An agent that only rotates does without what sends.
        from fusevol.logagent.forwarding import Forwarder

        kept = self._kept
        if kept is None:
            logger.error(
                "access log %s: the position of sink %s is lost; sending it the whole log again",
                self._log, sink,
            )  # fmt: skip
            return Forwarder(sink, self._log, Position(0))
        position = kept[sink] if sink in kept else Position(begin)
        return Forwarder(sink, self._log, position)

    def run(self) -> str:
        """Work until the keeper closes the channel; then send what is left.

        Returns:
            The file of messages, if the mount has ended; empty if another agent follows.
        """
        for forwarder in self._forwarders:
            forwarder.start()
        self._say(AT_WORK)
        keep_at = retain_at = 0.0
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while not poll.poll(_TICK_S * 1000):
            now = time.monotonic()
            with self._explained("rotate it"):
                if self._rotation.go_on():
                    retain_at = now
            if now >= retain_at:
                retain_at = now + _RETAIN_S
                with self._explained("check the rotated files"):
                    self._retention.go_on()
            if now >= keep_at:
                keep_at = now + _KEEP_S
                self._keep()
        messages = self._last_word()
        self._end()
        if messages:
            self._tell_what_is_left()
        return messages

    def _last_word(self) -> str:
        try:
            return os.fsdecode(self._channel.recv(MESSAGE_BYTES))
        except ConnectionResetError:
            # The keeper has not read all we sent. The error comes once, before what it sent.
            return os.fsdecode(self._channel.recv(MESSAGE_BYTES))

    def _end(self) -> None:
        for forwarder in self._forwarders:
            forwarder.end()
        end = time.monotonic() + _DRAIN_S
        for forwarder in self._forwarders:
            forwarder.join(max(0.0, end - time.monotonic()))
        self._keep()
        with self._explained("leave a file of records"):
            self._rotation.leave_a_file()
        status.remove(self._log)

    def _tell_what_is_left(self) -> None:
        for one in self._forwarders:
            seq = one.position.seq
            if seq < self._newest:
                logger.warning(
                    "access log %s: the mount ended before sink %s received records %d to %d; they "
                    "are sent when the log is next written with this sink",
                    self._log, one.sink, seq + 1, self._newest,
                )  # fmt: skip

    def _keep(self) -> None:
        if self._forwarders:
            self._look_for_newest()
        self._keep_positions()
        with self._explained("save its status"):
            status.write(self._status())

    def _keep_positions(self) -> None:
        positions = {
            one.sink: msgspec.structs.replace(one.position, newest=one.newest)
            for one in self._forwarders
        }
        with self._explained("save positions"):
            if positions != self._kept:
                self._positions.save(positions)
                self._kept = positions

    def _status(self) -> status.AgentStatus:
        return status.AgentStatus(
            log=self._log,
            pid=os.getpid(),
            sinks=[
                status.SinkStatus(
                    one.sink, one.position.seq, max(0, self._newest - one.position.seq),
                    one.error, one.error_since,
                )
                for one in self._forwarders
            ],
            rotated_files=self._retention.files,
            total_bytes=self._retention.total,
            free_bytes=self._retention.free,
        )  # fmt: skip

    def _look_for_newest(self) -> None:
        """Note the number of the newest record, also if its file was rotated away since."""
        seq = known_of(self._log).seq
        with self._explained("read its end"), contextlib.suppress(NotFoundError):
            newest = last_record(self._log)
            if newest is not None:
                seq = max(seq, newest.seq)
        self._saw(seq)

    def _about_to_remove(self, path: str) -> None:
        """Say so if a sink has not got all of a file that goes now."""
        forget(self._log, path)
        with contextlib.suppress(FusevolError):
            behind = [one for one in self._forwarders if one.position.seq < self._newest]
            # What is compressed has to be read for that, so it is not done in vain.
            last = end_of_file(path).seq if behind else 0
            for one in behind:
                if one.position.seq < last:
                    logger.warning(
                        "access log %s: removing %s, of which sink %s has received records only up "
                        "to %d; it gets a gap record with the number of missing records",
                        self._log, os.path.basename(path), one.sink, one.position.seq,
                    )  # fmt: skip

    def _saw(self, seq: int) -> None:
        if seq:
            self._newest = seq
            for forwarder in self._forwarders:
                forwarder.saw(seq)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Say once what failed, and go on."""
        try:
            yield
        except (OSError, FusevolError) as error:
            why = str(error)
            if self._said.get(what) != why:
                logger.error("access log %s: cannot %s: %s", self._log, what, why)
            self._said[what] = why
        else:
            self._said.pop(what, None)

    def _ask_to_reopen(self) -> None:
        self._say(REOPEN)

    def _say(self, what: bytes) -> None:
        # A keeper that is gone has ended the channel, too.
        with contextlib.suppress(OSError):
            self._channel.send(what)


def main(arguments: list[str]) -> int:
    """Look after the log that the first message on the channel names, until the channel ends."""
    logging.basicConfig(format="fusevol: %(levelname)s: %(message)s", stream=sys.stderr)
    with socket.socket(fileno=int(arguments[0])) as channel:
        message = channel.recv(MESSAGE_BYTES)
        if not message:
            return 0
        os.nice(_NICENESS)
        try:
            messages = Agent(msgspec.json.decode(message, type=AgentStart), channel).run()
        except FusevolError as error:
            logger.error("%s", error)
            return 1
    remove_if_empty(messages)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
