"""A log as files of plain JSON lines, for a reader that knows nothing else.

Files that are such files are given out as they are. Of all others (compressed, in another format,
with lines that are not records, a pipe) copies are made.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Final

from fusevol.errors import FusevolError
from fusevol.logs.continuity import KEYS, Continuity
from fusevol.logs.decoding import projection
from fusevol.logs.filter import Filter
from fusevol.logs.parallel import in_order, usable_processors
from fusevol.logs.reader import Predicate, Skipped
from fusevol.logs.sections import Section, Tally, is_stream
from fusevol.options.log import LogFormat
from fusevol.record.formats import format_of
from fusevol.record.record import encode

_LOOKED_AT: Final = projection(KEYS)
"""What a `Filter` by volume and time needs, and who looks for missing numbers."""


def plain_files(
    sections: Sequence[Section],
    wanted: Filter,
    directory: str,
    tally: Tally,
    numbers: list[Continuity],
) -> list[str]:
    """Return paths of files that hold the records of `sections`, in their order.

    Args:
        sections: of a log that is open.
        wanted: what has to be in copies, by volume and time. Files that are not copied hold other
            records, too.
        directory: gets the copies.
        tally: gets what is passed over.
        numbers: gets those of the records in each section.

    Raises:
        FusevolError: a file cannot be read, or a copy cannot be written.
    """
    files = [list(parts) for _key, parts in itertools.groupby(sections, lambda one: one.fd)]
    found: dict[Section, Continuity] = {}
    plain = {parts[0].fd for parts in files if _is_plain(parts, wanted, found)}
    copied = [part for parts in files if parts[0].fd not in plain for part in parts]
    names = [os.path.join(directory, f"{index}.json") for index in range(len(copied))]
    _copy(list(zip(copied, names, strict=True)), wanted, tally, found)
    numbers += [found[section] for section in sections]
    rest = iter(names)
    paths: list[str] = []
    for parts in files:
        if parts[0].fd in plain:
            # By number, as it may be renamed meanwhile.
            paths.append(f"/proc/self/fd/{parts[0].fd}")
        else:
            paths += itertools.islice(rest, len(parts))
    return paths


def _is_plain(parts: Sequence[Section], wanted: Filter, found: dict[Section, Continuity]) -> bool:
    """Return whether a file holds nothing but records in JSON; note their numbers if so."""
    if parts[0].end is None:
        return False

    def work(part: Section) -> Iterator[Continuity | None]:
        numbers = Continuity(wanted, part.path)
        for batch in part.batches(Skipped(), _LOOKED_AT):
            if not batch.is_json:
                yield None
                return
            numbers.add_batch(batch)
        yield numbers

    with contextlib.closing(in_order(parts, work, usable_processors())) as results:
        for part, numbers in results:
            if numbers is None:
                return False
            found[part] = numbers
    return True


def _copy(
    copies: Sequence[tuple[Section, str]],
    wanted: Filter,
    tally: Tally,
    found: dict[Section, Continuity],
) -> None:
    keep = wanted.compile()

    def work(copy: tuple[Section, str]) -> Iterator[tuple[Skipped, Continuity]]:
        section, name = copy
        skipped, numbers = Skipped(), Continuity(wanted, section.path)
        with _told(name), open(name, "xb") as file:
            file.writelines(_lines(section, keep, skipped, numbers))
        yield skipped, numbers

    # Standard input is there for this process only.
    is_piped = any(is_stream(section) for section, _name in copies)
    processes = 1 if is_piped else usable_processors()
    with contextlib.closing(in_order(copies, work, processes)) as results:
        for (section, _name), (skipped, numbers) in results:
            tally.add(section, skipped)
            found[section] = numbers


def _lines(
    section: Section, keep: Predicate, skipped: Skipped, numbers: Continuity
) -> Iterator[bytes]:
    """Yield the records that are wanted as lines of JSON, and others beside them."""
    for batch in section.batches(skipped, _LOOKED_AT):
        numbers.add_batch(batch)
        records = [one for one in batch.records if one is not None]
        if not any(map(keep, records)):
            continue
        if batch.is_json:
            yield batch.block + b"\n"
        else:
            for line, record in zip(batch.block.split(b"\n"), batch.records, strict=True):
                if record is not None:
                    yield (line if format_of(line) == LogFormat.JSON else encode(record)) + b"\n"


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FusevolError(
            f"cannot copy the log to {os.path.dirname(name)}: {error.strerror}; logs that are "
            "compressed or not JSON need space there: set TMPDIR to another directory"
        ) from None
