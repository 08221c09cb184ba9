"""Receivers of records: a real systemd-journald, a real rsyslogd, each in a folder of its own."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.patience import PATIENCE_S
from tests.served import wait_until

_JOURNALD: Final = "/lib/systemd/systemd-journald"
_NAMESPACE: Final = "fusevol"
_JOURNALD_CONF: Final = """\
[Journal]
Storage=volatile
RateLimitIntervalSec=0
ForwardToSyslog=no
ForwardToWall=no
"""
_LAUNCH: Final = f"""\
mount --make-rprivate /
mount --bind "$1/run" /run
mount --bind "$1/etc" /etc/systemd
exec {_JOURNALD} {_NAMESPACE}
"""
"""A journal of a namespace leaves the kernel's messages and audit alone."""

_RSYSLOG_CONF: Final = """\
global(workDirectory="{folder}" maxMessageSize="8k")
module(load="imuxsock" SysSock.Use="off")
module(load="imptcp")
module(load="mmpstrucdata")
input(type="imuxsock" Socket="{folder}/datagram" UseSpecialParser="off" ParseHostname="on"
      IgnoreTimestamp="off" RateLimit.Interval="0")
input(type="imptcp" Path="{folder}/stream")
template(name="all" type="list" option.jsonf="on") {{
    property(outname="priority" name="pri" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="application" name="app-name" format="jsonf")
    property(outname="process" name="procid" format="jsonf")
    property(outname="id" name="msgid" format="jsonf")
    property(outname="elements" name="$!rfc5424-sd" format="jsonf")
    property(outname="raw" name="rawmsg" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
action(type="mmpstrucdata")
action(type="omfile" file="{folder}/received" template="all")
"""


class Journal:
    """A journald of its own, what it has, and its life.

    Attributes:
        socket: where it takes entries of the native protocol.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / f"run/systemd/journal.{_NAMESPACE}/socket"
        for name in ("run", "etc"):
            (folder / name).mkdir()
        (folder / f"etc/journald@{_NAMESPACE}.conf").write_text(_JOURNALD_CONF)

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _LAUNCH, "sh", self._folder],
            stdin=subprocess.DEVNULL,
        )
        wait_until(self.socket.is_socket, "the journal's socket")

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def entries(self, count: int) -> list[dict[str, bytes]]:
        """Return the next `count` entries of fusevol, once they are there."""
        self._count += count
        found: list[dict[str, bytes]] = []

        def are_there() -> bool:
            found[:] = exported(self._journalctl("-o", "export", "SYSLOG_IDENTIFIER=fusevol"))
            return len(found) >= self._count

        wait_until(are_there, f"{self._count} entries in the journal")
        return found[-count:]

    def as_json(self, *matches: str) -> list[dict[str, Any]]:
        lines = self._journalctl("-o", "json", "--all", *matches).splitlines()
        return [json.loads(line) for line in lines]

    def _journalctl(self, *words: str) -> bytes:
        [directory] = (self._folder / "run/log/journal").iterdir()
        return subprocess.run(
            ["journalctl", "--quiet", "-D", directory, *words],
            capture_output=True, check=True, timeout=PATIENCE_S,
        ).stdout  # fmt: skip


def exported(text: bytes) -> list[dict[str, bytes]]:
    """Parse the Journal Export Format: entries end with an empty line."""
    entries: list[dict[str, bytes]] = []
    entry: dict[str, bytes] = {}
    while text:
        line, _, text = text.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not line:
            entries.append(entry)
            entry = {}
        elif equals:
            entry[name.decode()] = value
        else:
            length = int.from_bytes(text[:8], "little")
            entry[name.decode()] = text[8 : 8 + length]
            assert text[8 + length : 9 + length] == b"\n"
            text = text[9 + length :]
    return [*entries, entry] if entry else entries


@contextmanager
def journal(folder: Path) -> Iterator[Journal]:
    """Run a journald."""
    receiver = Journal(folder)
    try:
        receiver.start()
        yield receiver
    finally:
        receiver.stop()


class Rsyslog:
    """An rsyslogd of its own.

    Attributes:
        datagram, stream: its sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.datagram = folder / "datagram"
        self.stream = folder / "stream"
        self._received = folder / "received"
        self._count = 0

    def messages(self, count: int) -> list[dict[str, str]]:
        """Return the next `count` messages, once they are there."""
        self._count += count
        wait_until(lambda: len(self._lines()) >= self._count, f"{self._count} messages at rsyslogd")
        return [json.loads(line) for line in self._lines()[-count:]]

    def _lines(self) -> list[bytes]:
        return self._received.read_bytes().split(b"\n")[:-1] if self._received.exists() else []


@contextmanager
def rsyslog(folder: Path) -> Iterator[Rsyslog]:
    """Run an rsyslogd."""
    configuration = folder / "rsyslog.conf"
    configuration.write_text(_RSYSLOG_CONF.format(folder=folder))
    process = subprocess.Popen(
        ["rsyslogd", "-n", "-f", configuration, "-i", folder / "pid"], stdin=subprocess.DEVNULL
    )
    try:
        receiver = Rsyslog(folder)
        wait_until(
            lambda: receiver.stream.is_socket() and receiver.datagram.is_socket(),
            "rsyslogd's sockets",
        )  # fmt: skip
        yield receiver
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
