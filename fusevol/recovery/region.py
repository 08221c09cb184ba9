"""The memory that the recovery state lies in, and where in it everything is."""

import mmap
import os
import struct
from typing import Final, NamedTuple

from fusevol.errors import FusevolError
from fusevol.record.record import OK
from fusevol.recovery import layout
from fusevol.recovery import log_cells as cells

WORD: Final = 8
"""Bytes in a word; all places are counted in words."""

_MAGIC: Final = 0x6C6F766573756601
_HEADER: Final = struct.Struct("2Q")

# Words of the header.
_MAGIC_AT: Final = 0
_VERSION_AT: Final = 1
NODES_HIGH: Final = 2
"""Where the used part of the node entries ends."""
OPENS_HIGH: Final = 3
NEXT_FILE: Final = 4
"""Highest handle number given to a file; NEXT_DIRECTORY: to a directory."""
NEXT_DIRECTORY: Final = 5
NOTES_TOLD: Final = 6
"""How many notes are in the log; NOTES: how many there were."""
_TELLING: Final = 7
"""Number of the note whose record is being written, and `seq` of that, in one word."""
OPTIONS_TOLD: Final = 8
"""Digest of the options last recorded in the log; 0 if there was none."""
MOUNT_FLAGS: Final = 9
"""Flags of mount(2) that the mount has besides those that were asked for."""
SINKS_BEGIN: Final = 10
"""Number of the newest record when the log got its options: sinks that are new begin behind it."""
FLAGS: Final = 12
"""INIT flags in force."""
FUSE_FD: Final = 13
"""Descriptor plus one of /dev/fuse, of the source, of the connection in fusectl, and of the log; 0
for none."""
ROOT_FD: Final = 14
CONNECTION_FD: Final = 15
LOG_FD: Final = 24
"""Where the words begin that `recovery.log_cells` describes, and the descriptor of the log."""
ALIVE_FD: Final = 22
"""Both ends of a pipe, which closes when no process has the descriptors any more."""
ALIVE_WRITE_FD: Final = 23
RESTARTS: Final = 16
"""How often a worker was succeeded."""
NOTES: Final = 17

PROGRESS: Final = 18
"""Not 0 when the worker has answered requests for a while."""
DEVICE: Final = 19
"""st_dev of the mount."""
LOG_WANTED: Final = 20
"""How often the log was to be reopened; LOG_OPENED: how often that was done."""
LOG_OPENED: Final = 21

LOG_BYTES: Final = LOG_FD + cells.BYTES
LOG_RECORDS: Final = LOG_FD + cells.RECORDS
LOG_LOST: Final = LOG_FD + cells.UNRECORDED
LOG_UNTOLD: Final = LOG_FD + cells.LOST
LOG_STATE_FD: Final = LOG_FD + cells.STATE_FD
LOG_FAULT: Final = LOG_FD + cells.FAULT
HEADER_WORDS: Final = LOG_FD + cells.COUNT

_SEQ_BITS: Final = 44
_NOTES: Final = 8192
_NOTE_BYTES: Final = 256
_NOTES_KEPT: Final = 64
_TEXTS: Final = (32768, 98304)
_TEXT_BYTES: Final = 65536 - WORD

JOURNAL: Final = (192 << 10) // WORD
COUNTERS: Final = (256 << 10) // WORD
OPENS: Final = (1 << 20) // WORD
OPENS_END: Final = (257 << 20) // WORD
RUNS: Final = OPENS_END
RUNS_END: Final = (385 << 20) // WORD
NODES: Final = (512 << 20) // WORD
NODES_END: Final = (2560 << 20) // WORD
_BYTES: Final = (2560 << 20) + 4096
"""Most of it is never touched, and takes no memory."""

CONFIG: Final = 0
INIT: Final = 1


def check_header(fd: int) -> None:
    """Check that `fd` is a recovery state of this code's layout.

    Raises:
        FusevolError: another version of fusevol wrote it, or it is none.
    """
    wanted = _HEADER.pack(_MAGIC, layout.version())
    if os.fstat(fd).st_size != _BYTES or os.pread(fd, len(wanted), _MAGIC_AT * WORD) != wanted:
        raise FusevolError("the recovery state is of another version; unmount and mount again")


class Note(NamedTuple):
    """What happened to those that serve, for the log: a record without a caller."""

    op: str
    result: str
    reason: str


class Region:
    """A memfd, mapped.

    Attributes:
        fd: the memfd.
        map: its bytes.
        words: the same as unsigned words of 64 bits.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, _BYTES)
        self.words = memoryview(self.map).cast("Q")

    @classmethod
    def create(cls) -> "Region":
        """Return an empty one."""
        fd = os.memfd_create("fusevol-state", os.MFD_CLOEXEC)
        os.ftruncate(fd, _BYTES)
        region = cls(fd)
        words = region.words
        words[NODES_HIGH] = NODES
        words[OPENS_HIGH] = OPENS
        words[_VERSION_AT] = layout.version()
        words[_MAGIC_AT] = _MAGIC
        return region

    @classmethod
    def attach(cls, fd: int) -> "Region":
        """Return the one in `fd`.

        Raises:
            FusevolError: another version of fusevol wrote it, or it is none.
        """
        check_header(fd)
        return cls(fd)

    def put_text(self, which: int, content: bytes) -> None:
        """Store CONFIG or INIT, at most 64 KiB, while no worker runs."""
        if len(content) > _TEXT_BYTES:
            raise FusevolError("the description of the mount is longer than 64 KiB")
        at = _TEXTS[which]
        self.map[at + WORD : at + WORD + len(content)] = content
        self.words[at // WORD] = len(content)

    def text(self, which: int) -> bytes:
        """Return what `put_text` stored; nothing if it stored nothing."""
        at = _TEXTS[which]
        return self.map[at + WORD : at + WORD + self.words[at // WORD]]

    def add_restart(self, reason: str) -> None:
        """Note that a worker will be succeeded, and why."""
        self.add_note(Note("restart", OK, reason))
        self.words[RESTARTS] += 1

    def add_note(self, note: Note) -> None:
        """Keep what the worker is to write to the log, or its successor."""
        number = self.words[NOTES]
        content = " ".join(note).encode(errors="replace")[: _NOTE_BYTES - 1]
        at = _NOTES + number % _NOTES_KEPT * _NOTE_BYTES
        self.map[at : at + _NOTE_BYTES] = content.ljust(_NOTE_BYTES, b"\0")
        self.words[NOTES] = number + 1

    def note(self, number: int) -> Note:
        """Return note `number`, one of the last 64; numbers begin with 0."""
        at = _NOTES + number % _NOTES_KEPT * _NOTE_BYTES
        content = self.map[at : at + _NOTE_BYTES].rstrip(b"\0").decode(errors="replace")
        return Note(*content.split(" ", 2))

    def untold(self) -> range:
        """Return the numbers of the notes that are not in the log, as far as they are kept."""
        happened, told = self.words[NOTES], self.words[NOTES_TOLD]
        return range(max(told, happened - _NOTES_KEPT), happened)

    def telling(self, number: int, seq: int) -> None:
        """Note that the record of note `number` is about to be written under number `seq`."""
        self.words[_TELLING] = (number & 0xFFFFF) << _SEQ_BITS | seq

    def settle_telling(self, last_seq: int) -> None:
        """Find out whether that record was written, given the number of the newest one."""
        number, seq = divmod(self.words[_TELLING], 1 << _SEQ_BITS)
        untold = self.untold()
        if untold and number == untold[0] & 0xFFFFF and 0 < seq <= last_seq:
            self.words[NOTES_TOLD] = untold[0] + 1

    def begin_sinks(self) -> None:
        """Have sinks that are new begin behind the newest record that there is."""
        self.words[SINKS_BEGIN] = max(1, self.words[LOG_FD + cells.SEQ]) - 1

    def log_cells(self) -> memoryview:
        """Return the words of the log's writer, which `recovery.log_cells` describes."""
        return self.words[LOG_FD : LOG_FD + cells.COUNT]

    def make_alive_pipe(self) -> None:
        """Open the pipe by which others see whether anybody has the descriptors of the mount."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self.set_descriptor(ALIVE_FD, reading)
        self.set_descriptor(ALIVE_WRITE_FD, writing)

    def descriptor(self, cell: int) -> int:
        """Return the descriptor in FUSE_FD, ROOT_FD or LOG_FD; -1 for none."""
        return self.words[cell] - 1

    def set_descriptor(self, cell: int, fd: int) -> None:
        """Store a descriptor; -1 for none."""
        self.words[cell] = fd + 1

    def resident_bytes(self) -> int:
        """Return how much memory the state takes."""
        return os.fstat(self.fd).st_blocks * 512
