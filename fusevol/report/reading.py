"""Reads a whole log for a report, by all processors."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from fusevol.logs.continuity import Continuity, joined
from fusevol.logs.filter import Filter
from fusevol.logs.parallel import in_order, usable_processors
from fusevol.logs.reader import Skipped
from fusevol.logs.sections import Section, Tally, is_stream, opened
from fusevol.report.aggregate import Aggregate
from fusevol.report.counting import RecordCounter


class ReportInput(NamedTuple):
    """What a log contains.

    Attributes:
        aggregate: of the records that were asked for.
        continuity: of all records of the volumes and the time that were asked for.
        skipped: what is not a record.
        files: what was read, in this order.
    """

    aggregate: Aggregate
    continuity: Continuity
    skipped: Skipped
    files: list[str]


class _Part(NamedTuple):
    aggregate: Aggregate
    sections: list[tuple[int, Skipped, Continuity]]


def read_log(sources: Sequence[str], wanted: Filter, *, with_rotated: bool) -> ReportInput:
    """Read what is `wanted` of the logs at `sources`; "-" is standard input.

    Raises:
        NotFoundError, NotPermittedError, FusevolError: one of them cannot be read.
    """
    whole = Aggregate()
    tally = Tally()
    with opened(sources, with_rotated=with_rotated) as sections:
        done = []
        with contextlib.closing(_parts(sections, wanted)) as parts:
            for part in parts:
                whole.merge(part.aggregate)
                done += part.sections
        done.sort(key=lambda section: section[0])
        for index, skipped, _continuity in done:
            tally.add(sections[index], skipped)
        files = list(dict.fromkeys(section.path for section in sections))
        continuity = joined((part for *_, part in done), wanted)
    return ReportInput(whole, continuity, tally.skipped, files)


def _parts(sections: list[Section], wanted: Filter) -> Generator[_Part]:
    """Yield what each process has counted."""
    keep = None if wanted == Filter() else wanted.compile()

    def work(indices: range) -> Iterator[_Part]:
        aggregate = Aggregate()
        counter = RecordCounter(aggregate)
        done = []
        for index in indices:
            skipped, continuity = Skipped(), Continuity(wanted, sections[index].path)
            for batch in sections[index].batches(skipped):
                records = [record for record in batch.records if record is not None]
                if records:
                    continuity.add(records)
                    counter.add(records if keep is None else list(filter(keep, records)))
            done.append((index, skipped, continuity))
        counter.flush()
        yield _Part(aggregate, done)

    # Standard input is there for this process only.
    processes = 1 if any(map(is_stream, sections)) else usable_processors()
    # Backwards: once the newest records are there, older ones need no further look.
    last = len(sections) - 1
    shares = [range(last - first, -1, -processes) for first in range(processes)]
    with contextlib.closing(in_order(shares, work, processes)) as results:
        yield from (part for _share, part in results)
