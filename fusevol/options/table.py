"""The table of options: everything that a mount, a volume and a log can be asked for.

It feeds `mount -o`, /etc/fstab, `volume create -o`, Docker, the configuration, `volume update`,
`--help`, completion and the tables in docs.
"""

import enum
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fusevol.errors import UsageError
from fusevol.linux.mounts import (
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
)
from fusevol.options import kinds
from fusevol.options.kinds import Kind
from fusevol.spelling import did_you_mean


class Place(enum.Flag):
    """Where an option applies."""

    MOUNT = enum.auto()
    """`fusevol mount -o`, mount(8), /etc/fstab."""
    VOLUME = enum.auto()
    """`fusevol volume`, Docker, the configuration."""
    BOTH = MOUNT | VOLUME


class Change(enum.StrEnum):
    """When a change to a volume takes effect."""

    AT_ONCE = "immediately"
    LEVEL = "data immediately, all at the next mount"
    NEXT = "at the next mount"
    IDLE = "only while nobody uses it"


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: as values have it: NAME=VALUE.
        kind: of its value.
        help: what it says, for people; no full stop.
        default: what holds without it, for people.
        place: where it applies.
        change: when `volume update` takes effect.
        page: page of docs with more about it.
        aliases: other names that volumes take.
        words: how `mount -o` says it without a value: (what sets `flag`, what clears it).
        flag: of mount(2), for `words`; 0 if it is none.
    """

    name: str
    kind: Kind
    help: str
    default: str = ""
    place: Place = Place.BOTH
    change: Change = Change.NEXT
    page: str = ""
    aliases: tuple[str, ...] = ()
    words: tuple[str, str] | tuple[()] = ()
    flag: int = 0

    @property
    def usage(self) -> str:
        """How it is written with a value."""
        return f"{self.name}={self.kind.metavar}"

    @property
    def can_be_bare(self) -> bool:
        """Whether the name alone says something, as with `chain`."""
        return self.kind is kinds.BOOLEAN

    def parse(self, text: str) -> Any:
        """Return the value that `text` means.

        Raises:
            UsageError: it means none.
            UnsupportedError: record level `open`.
        """
        if "\0" in text:
            raise UsageError(f"invalid {self.name}: expected a value without a NUL byte")
        try:
            return self.kind.parse(text)
        except ValueError as error:
            raise self.invalid(text, str(error)) from None

    def invalid(self, text: object, expected: str) -> UsageError:
        """Return the error for a value that is not what was expected."""
        return UsageError(f"invalid {self.name}={text}: expected {expected}")

    def changes_at_once(self, text: str) -> bool:
        """Return whether a volume in use takes the value `text`."""
        if self.change is Change.LEVEL:
            return text == "data"
        return self.change is Change.AT_ONCE

    def forms(self, place: Place) -> list[str]:
        """Return how it is written at one place, for help texts."""
        if place is Place.MOUNT and self.words:
            return list(self.words)
        if place is Place.MOUNT and self.can_be_bare:
            return [self.name]
        return [self.usage]

    def candidates(self, place: Place) -> list[str]:
        """Return what completion offers for it at one place."""
        if place is Place.MOUNT and (self.words or self.can_be_bare):
            return self.forms(place)
        return [f"{self.name}={choice}" for choice in self.kind.choices] or [f"{self.name}="]


LEGEND: Final = (
    "SIZE is in bytes, or with K, M, G or T in powers of 1024 (500M, 2G). TIME is in seconds, or "
    "with s, m, h, d or w (30s, 2h)."
)
"""What SIZE and TIME stand for in help texts."""

_AS_MOUNT: Final = "as in mount(8)"
_FLAGS_HELP: Final = f"{_AS_MOUNT}. What the source's own mount forbids stays forbidden"
_ATIME_HELP: Final = f"{_AS_MOUNT}. Without root the source goes by its own"

OPTIONS: Final = (
    Option("source", kinds.PATH, "directory or file of the host",
           "a directory of fusevol's, which is DELETED with the volume",
           Place.VOLUME, Change.IDLE, aliases=("device",)),
    Option("subpath", kinds.SUBPATH,
           "only this part of the source; no symbolic link on the way", "all of it",
           Place.VOLUME, Change.IDLE),
    Option("name", kinds.NAME, "the volume's name in the records", "the mount point", Place.MOUNT),
    Option("record", kinds.LEVEL,
           "how much is recorded. all: every operation; data: changes, opens, closes, and what the "
           "page cache does not answer", "all", change=Change.LEVEL),
    Option("log", kinds.LOG, "where records go; none keeps no records",
           "/var/log/fusevol/NAME.log"),
    Option("on_log_failure", kinds.ON_LOG_FAILURE,
           "what happens to operations while the log cannot be written: they go on and are "
           "counted, or fail with EIO and have no effect", "continue", change=Change.AT_ONCE),
    Option("deadline", kinds.DEADLINE,
           "an operation that the source does not answer in time fails with EIO, and is recorded "
           "with the reason deadline. It may still take effect later. Calls take two or three "
           "times as long", "none", change=Change.AT_ONCE),
    Option("strict", kinds.BOOLEAN,
           "at record level all, the kernel asks for the attributes of directories each time: a "
           "getattr that comes within a tick (4 to 8 ms) of the one before is recorded, too. "
           "Calls that take a path make nearly twice as many requests", "false",
           change=Change.AT_ONCE),
    Option("ro", kinds.BOOLEAN, "refuse changes, or allow them", "rw", aliases=("read_only",),
           words=("ro", "rw"), flag=MS_RDONLY),
    Option("suid", kinds.BOOLEAN, _FLAGS_HELP, "nosuid,nodev", words=("nosuid", "suid"),
           flag=MS_NOSUID),
    Option("dev", kinds.BOOLEAN, _FLAGS_HELP, "nosuid,nodev", words=("nodev", "dev"),
           flag=MS_NODEV),
    Option("noexec", kinds.BOOLEAN, _FLAGS_HELP, "as the source's mounts",
           words=("noexec", "exec"), flag=MS_NOEXEC),
    Option("nosymfollow", kinds.BOOLEAN, _FLAGS_HELP, "as the source's mounts", Place.MOUNT,
           words=("nosymfollow", "symfollow"), flag=MS_NOSYMFOLLOW),
    Option("exec", kinds.BOOLEAN, "programs can run although a file system below the source is "
           "mounted noexec", "as the source's mounts", Place.VOLUME),
    Option("noatime", kinds.BOOLEAN, _ATIME_HELP, "as the source's mount", Place.MOUNT,
           words=("noatime", "atime"), flag=MS_NOATIME),
    Option("nodiratime", kinds.BOOLEAN, _ATIME_HELP, "as the source's mount", Place.MOUNT,
           words=("nodiratime", "diratime"), flag=MS_NODIRATIME),
    Option("relatime", kinds.BOOLEAN, _ATIME_HELP, "as the source's mount", Place.MOUNT,
           words=("relatime", "norelatime"), flag=MS_RELATIME),
    Option("strictatime", kinds.BOOLEAN, _ATIME_HELP, "as the source's mount", Place.MOUNT,
           words=("strictatime", "nostrictatime"), flag=MS_STRICTATIME),
    Option("lazytime", kinds.BOOLEAN, _ATIME_HELP, "as the source's mount", Place.MOUNT,
           words=("lazytime", "nolazytime"), flag=MS_LAZYTIME),
    Option("allow_other", kinds.BOOLEAN,
           "who may use the mount: everybody, or only the user who mounts",
           "allow_other for root, else private", Place.MOUNT, words=("allow_other", "private")),
    Option("include", kinds.RULES, "record only what one of the rules matches", "everything",
           change=Change.AT_ONCE, page="filters.md"),
    Option("exclude", kinds.RULES, "do not record what one of the rules matches", "nothing",
           change=Change.AT_ONCE, page="filters.md"),
    Option("success", kinds.OPERATION_LIST, "operations to record when they succeed", "all",
           change=Change.AT_ONCE, page="filters.md"),
    Option("failure", kinds.OPERATION_LIST, "operations to record when they fail", "all",
           change=Change.AT_ONCE, page="filters.md"),
    Option("coalesce", kinds.COALESCING,
           "reads or writes that follow one another within TIME become one record", "none",
           change=Change.AT_ONCE, page="filters.md"),
    Option("format", kinds.LOG_FORMAT, "format of the log file", "json",
           change=Change.AT_ONCE, page="shipping.md"),
    Option("sinks", kinds.SINKS, "where records go besides the file", "nowhere",
           change=Change.AT_ONCE, page="shipping.md"),
    Option("chain", kinds.BOOLEAN,
           "each record has a keyed hash over itself and the one before", "false",
           change=Change.AT_ONCE, page="proof.md"),
    Option("rotate_size", kinds.FILE_SIZE,
           "start a new file when this one reaches SIZE", "none",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("rotate_age", kinds.TIME,
           "start a new file when the first record of this one is this old", "none",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("compress", kinds.COMPRESSION, "compress rotated files", "none",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("keep_files", kinds.NUMBER, "keep the newest N rotated files", "all",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("keep_age", kinds.TIME, "keep rotated files for this long", "for ever",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("quota", kinds.FILE_SIZE,
           "all files of the log together; DELETES the oldest beyond that", "none",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("space_warn", kinds.SIZE,
           "warn when less than this is free on the log's file system", "never",
           change=Change.AT_ONCE, page="rotation.md"),
    Option("space_act", kinds.SIZE,
           "DELETES the oldest rotated files while less than this is free", "never",
           change=Change.AT_ONCE, page="rotation.md"),
)  # fmt: skip
"""In the order in which help texts and docs have them."""


def options_of(place: Place) -> dict[str, Option]:
    """Return what applies at one place, by name; aliases are left out."""
    return {option.name: option for option in OPTIONS if option.place & place}


def rows_of(place: Place) -> list[list[Option]]:
    """Return what applies at one place, row by row: neighbours that say the same share one."""
    applying = [option for option in OPTIONS if option.place & place]
    grouped = itertools.groupby(applying, lambda one: (one.help, one.default, one.change))
    return [list(row) for _said, row in grouped]


def forms_of(row: Sequence[Option], place: Place) -> list[str]:
    """Return how the options of a row are written at one place; of many flags, what sets each."""
    if len(row) > 2:
        return [option.forms(place)[0] for option in row]
    return [form for option in row for form in option.forms(place)]


FLAGS: Final[Mapping[str, tuple[int, bool]]] = {
    word: (option.flag, sets)
    for option in OPTIONS
    if option.flag
    for word, sets in zip(option.words, (True, False), strict=True)
}
"""Word of `mount -o` -> flag of mount(2), and whether the word sets or clears it."""


def unknown(what: str, said: str, known: Iterable[str]) -> UsageError:
    """Return the error for an option that is none: what was meant, or else what there is."""
    names = list(known)
    meant = did_you_mean(said.partition("=")[0], names)
    return UsageError(f"unknown {what} {said!r}{meant or '; known are ' + ', '.join(names)}")
