"""A frame as tables: which rows and columns there are, in what order, and how numbers look."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fusevol.mounts.registry import MountEntry
from fusevol.record.container_ids import short_form
from fusevol.terminal import printable, quoted
from fusevol.top.activity import Activity
from fusevol.top.collector import Frame, VolumeFrame
from fusevol.top.newlines import OTHER_PATHS, OTHER_PROCESSES, Actor

VIEWS: Final = ("volumes", "operations", "paths", "processes", "containers")
_TITLES: Final = {view: view.rstrip("s").upper() for view in VIEWS} | {"processes": "PROCESS"}

_HOST: Final = "host"
_OTHERS: Final = "(others)"


@dataclass(slots=True)
class Row:
    """One row of a view.

    Attributes:
        identity: names of what makes it one -> values as they are in the log: the same from frame
            to frame.
        name: printable text.
        details: more about it, printable.
        activity: None if it is not known.
        lost, restarts, open_files: of volumes, since they were mounted and now; None if not known.
        notes: what is wrong with it, printable.
    """

    identity: dict[str, Any]
    name: str
    seconds: float
    activity: Activity | None
    details: str = ""
    lost: int | None = None
    restarts: int | None = None
    open_files: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Return a text that no other row of the view has."""
        return "\0".join(map(str, self.identity.values()))

    @property
    def failures(self) -> str:
        """Return which errors there were, most frequent first, as text."""
        found = self.activity.failures if self.activity is not None else {}
        most = heapq.nlargest(3, found.items(), key=lambda item: item[1])
        return ", ".join(f"{quoted(name)} {short(n / self.seconds)}/s" for name, n in most)


class ViewColumn(NamedTuple):
    """A number that rows have.

    Attributes:
        name: by which it is sorted, and its key in JSON.
        value: returns the number, None if it is not known.
        text: returns it in no more than `width` characters.
    """

    name: str
    title: str
    width: int
    value: Callable[[Row], float | None]
    text: Callable[[float], str]


def short(number: float) -> str:
    """Return a number in up to five characters: 0, 0.3, 12, 9999, 12.3k, 123M."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    if number < 9999.5:
        return f"{number:.0f}"
    for unit in "kMGTPE":
        number /= 1000
        if number < 99.95:
            return f"{number:.1f}{unit}"
        if number < 999.5 or unit == "E":
            return f"{number:.0f}{unit}"
    raise AssertionError("unreachable")


def duration(us: float) -> str:
    """Return microseconds in up to five characters: 35us, 1.2ms, 12s."""
    if us < 999.5:
        return f"{us:.0f}us"
    for unit, size in (("ms", 1e3), ("s", 1e6)):
        number = us / size
        if number < 9.95:
            return f"{number:.1f}{unit}"
        if number < 999.5:
            return f"{number:.0f}{unit}"
    return f"{min(us / 3.6e9, 9999):.0f}h" if us > 3.6e9 else f"{us / 6e7:.0f}m"


def _percent(part: float) -> str:
    return f"{part * 100:.1f}%" if 0 < part < 0.0995 else f"{min(part * 100, 9999):.0f}%"


def _rate(of: Callable[[Activity], float]) -> Callable[[Row], float | None]:
    return lambda row: None if row.activity is None else of(row.activity) / row.seconds


def _percentile(percent: float) -> Callable[[Row], float | None]:
    return lambda row: None if row.activity is None else row.activity.percentile_us(percent)


COLUMNS: Final = (
    ViewColumn("ops_per_s", "ops/s", 6, _rate(lambda activity: activity.count), short),
    ViewColumn("errors_per_s", "err/s", 5, _rate(lambda activity: activity.errors), short),
    ViewColumn("read_bytes_per_s", "read/s", 6, _rate(lambda activity: activity.bytes_read), short),
    ViewColumn("written_bytes_per_s", "wrtn/s", 6, _rate(lambda one: one.bytes_written), short),
    ViewColumn("p50_us", "p50", 5, _percentile(50), duration),
    ViewColumn("p95_us", "p95", 5, _percentile(95), duration),
    ViewColumn("p99_us", "p99", 5, _percentile(99), duration),
    ViewColumn("busy", "busy", 5, _rate(lambda activity: activity.total_us / 1e6), _percent),
)
"""What all views have."""

_OF_VOLUMES: Final = (
    ViewColumn("lost", "lost", 5, lambda row: row.lost, short),
    ViewColumn("restarts", "rst", 3, lambda row: row.restarts, short),
    ViewColumn("open_files", "open", 5, lambda row: row.open_files, short),
)


def columns(view: str) -> tuple[ViewColumn, ...]:
    """Return the columns of a view."""
    return (*COLUMNS, *_OF_VOLUMES) if view == "volumes" else COLUMNS


def column(view: str, name: str) -> ViewColumn:
    """Return the column of a view that is called `name`; the first one where there is none."""
    found = columns(view)
    return next((one for one in found if one.name == name), found[0])


def title(view: str) -> str:
    """Return what stands above the names of a view."""
    return _TITLES[view]


def chosen(frame: Frame, only: str | None) -> list[VolumeFrame]:
    """Return the volumes of a frame: all, or the one that is mounted at `only`, if it is there."""
    return [one for one in frame.volumes if only in (None, one.served.mountpoint)]


def rows(view: str, frame: Frame, only: str | None = None) -> list[Row]:
    """Return the rows of a view, in no order; of what is mounted at `only`, if that is given.

    The view `volumes` always has all of them.
    """
    if view == "volumes":
        return _volumes(frame)
    volumes = chosen(frame, only)
    if view == "operations":
        return _operations(frame, volumes)
    if view == "paths":
        return _paths(frame, volumes, with_volume=only is None)
    if view == "processes":
        return _processes(frame, volumes)
    return _containers(frame, volumes)


def arranged(
    found: Iterable[Row], by: ViewColumn, text: str = "", *, most: int, is_reverse: bool = False
) -> list[Row]:
    """Return the rows that come first: with the largest numbers, or the smallest if reversed.

    Args:
        by: the column whose numbers count; rows without such a number come last.
        text: what names or details hold, whatever their case.
        most: how many rows.
        is_reverse: whether small numbers come first.
    """
    text = text.casefold()
    sign = 1 if is_reverse else -1

    def order(row: Row) -> tuple[bool, float, str]:
        value = by.value(row)
        # What is equal stands by name, not to jump about from frame to frame.
        return (True, 0.0, row.name) if value is None else (False, sign * value, row.name)

    matching = (row for row in found if not text or text in f"{row.name} {row.details}".casefold())
    return heapq.nsmallest(most, matching, key=order)


def name_of(served: MountEntry) -> str:
    """Return the name of a volume, printable, as one word."""
    return quoted(served.name)


def _volumes(frame: Frame) -> list[Row]:
    found = []
    for volume in frame.volumes:
        served, now = volume.served, volume.now
        found.append(
            Row(
                {"volume": served.name, "mountpoint": served.mountpoint},
                name_of(served),
                frame.seconds,
                volume.total,
                f"{quoted(served.source)} on {quoted(served.mountpoint)}, level {served.level}, "
                f"log {quoted(served.log)}",
                lost=None if now is None else now.lost,
                restarts=served.restarts if now is None else now.restarts,
                open_files=None if now is None else now.open_files,
                notes=volume.notes,
            )
        )
    return found


def _operations(frame: Frame, volumes: list[VolumeFrame]) -> list[Row]:
    merged = _merged(volume.operations or {} for volume in volumes)
    return [Row({"op": op}, op, frame.seconds, activity) for op, activity in merged.items()]


def _paths(frame: Frame, volumes: list[VolumeFrame], *, with_volume: bool) -> list[Row]:
    found = []
    for volume in volumes:
        name = volume.served.name
        prefix = f"{name_of(volume.served)}:" if with_volume else ""
        for path, activity in volume.paths.items():
            shown = _OTHERS if path == OTHER_PATHS else printable(path)
            identity = {"volume": name, "path": path or _OTHERS}
            row = Row(identity, prefix + shown, frame.seconds, activity)
            found.append(row)
    return found


def _processes(frame: Frame, volumes: list[VolumeFrame]) -> list[Row]:
    merged = _merged(volume.processes for volume in volumes)
    found = []
    for who, activity in merged.items():
        where = _container(who.container, frame)
        if who == OTHER_PROCESSES:
            name, details = _OTHERS, ""
        else:
            name = f"{who.pid} {printable(who.comm or '?')}"
            details = f"in {where}"
        found.append(Row(who._asdict(), name, frame.seconds, activity, details))
    return found


def _containers(frame: Frame, volumes: list[VolumeFrame]) -> list[Row]:
    merged = _merged(_by_container(volume.processes) for volume in volumes)
    return [
        Row(
            {"container": container, "name": frame.container_names.get(container or "")},
            _container(container, frame),
            frame.seconds,
            activity,
            printable(container or ""),
        )
        for container, activity in merged.items()
    ]


def _by_container(processes: dict[Actor, Activity]) -> dict[str | None, Activity]:
    return _merged({who.container: activity} for who, activity in processes.items())


def _container(container: str | None, frame: Frame) -> str:
    if container is None:
        return _HOST
    if container == OTHER_PROCESSES.container:
        return _OTHERS
    name = frame.container_names.get(container)
    short_id = quoted(short_form(container))
    return short_id if name is None else f"{quoted(name)}({short_id})"


def _merged(parts: Iterable[dict[Any, Activity]]) -> dict[Any, Activity]:
    """Return what is in any of them, added up where it is in several."""
    merged: dict[Any, Activity] = {}
    for part in parts:
        for key, activity in part.items():
            merged.setdefault(key, Activity()).add(activity)
    return merged
