"""The live view on a terminal.

Runs in asyncio, as Textual does. Frames come from the watcher's thread as messages.
"""

import asyncio
import functools
import signal
import time
from collections import deque
from typing import ClassVar, Final

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from fusevol.terminal import quoted
from fusevol.top.collector import Frame, FrameCollector, NameOf, Wanted
from fusevol.top.plain import about_logs, as_rates, counted
from fusevol.top.table import Content, Table
from fusevol.top.views import (
    COLUMNS,
    VIEWS,
    ViewColumn,
    arranged,
    chosen,
    column,
    columns,
    name_of,
    rows,
    short,
    title,
)
from fusevol.top.watcher import Watcher

_MOST_ROWS: Final = 500
_INTERVALS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_BARS: Final = " ▁▂▃▄▅▆▇█"
_HISTORY: Final = 500
_LATE_S: Final = 3.0

_WIDE: Final = 100
_TALL: Final = 30

_HELP: Final = """\
1 to 5    volumes, operations, paths, processes, containers; Tab: next view
Enter     open the selected volume; Esc goes back to all volumes
↑ ↓       select a row (also PgUp, PgDn, Home, End); details are shown below
← →       sort by another column (or click); r reverses the order
/         show only names that contain a text; Esc shows all again
+ -       longer, shorter interval
Space     pause, and resume
q         quit

ops/s     operations per second; err/s: failed operations per second
read/s    bytes read per second; wrtn/s: written. k, M, G are powers of 1000
p50       median duration, estimated; p95, p99: 95th and 99th percentile
busy      time spent in operations: 200% means two at any moment
lost      operations without a record since the volume was mounted
rst       times its worker was replaced; open: files open now

Volumes and operations are counted, even if the log leaves them out.
Paths, processes and containers come from the log; if it is too fast, a sample."""


class Help(ModalScreen[None]):
    """What keys and columns mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,space", "dismiss", show=False)
    ]

    def compose(self) -> ComposeResult:
        yield Static(_HELP, markup=False)


class Top(App[None]):
    """The live view.

    Attributes:
        error: what has ended it; None if the user has.
    """

    CSS = """
    Screen { layers: base; }
    #summary { height: 1; background: $primary-darken-2; color: $text; text-wrap: nowrap; }
    #history { height: 1; color: $success; padding: 0 1; text-wrap: nowrap; }
    #tabs { height: 1; padding: 0 1; text-wrap: nowrap; link-style: none; link-style-hover: bold;
            link-background-hover: $accent; link-color-hover: $text; }
    Table { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    #details { height: 3; padding: 0 1; background: $panel; color: $text; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter:focus { border: none; }
    Table > .table--header { background: $panel; color: $text; text-style: bold; }
    Table > .table--sorted { background: $accent; color: $text; text-style: bold; }
    Table > .table--marked { background: $primary; color: $text; }
    Table > .table--name { text-style: bold; }
    Table > .table--failed { color: $text-warning; }
    Table > .table--alarm { color: $text-error; text-style: bold; }
    Table > .table--idle { color: $text-muted; }
    Help { align: center middle; }
    Help > Static { width: 82; max-width: 100%; max-height: 100%; padding: 0 1; overflow: auto;
                    background: $panel; border: round $accent; }
    .-tall #details { height: 5; }
    .-without-color #summary { text-style: reverse; }
    .-without-color Table > .table--sorted { text-style: reverse bold; }
    .-without-color Table > .table--marked { text-style: reverse; }
    """

    ENABLE_COMMAND_PALETTE = False

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"view('{view}')", show=False) for n, view in enumerate(VIEWS, 1)),
        Binding("tab", "next_view(1)", "View", key_display="1-5", priority=True),
        Binding("shift+tab", "next_view(-1)", show=False, priority=True),
        Binding("left,less_than_sign", "next_sort(-1)", show=False),
        Binding("right,greater_than_sign,s", "next_sort(1)", "Sort", key_display="← →"),
        Binding("r", "reverse", show=False),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("space", "pause", "Pause"),
        Binding("plus,equals_sign", "interval(1)", "Interval", key_display="+ -"),
        Binding("minus", "interval(-1)", show=False),
        Binding("escape", "step_back", "Back", key_display="Esc"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]

    class Came(Message):
        """A frame is there."""

        def __init__(self, frame: Frame) -> None:
            super().__init__()
            self.frame = frame

    class Failed(Message):
        """There will be no more frames."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(
        self,
        wanted: Wanted,
        container_name: NameOf,
        interval_s: float = 1.0,
        by: str = COLUMNS[0].name,
        text: str = "",
        *,
        in_color: bool = True,
    ) -> None:
        """Prepare.

        Args:
            wanted: which mounts to show.
            container_name: returns the names of containers.
            interval_s: how long frames are, in seconds.
            by: name of the column to sort by.
            text: what names have to hold.
            in_color: whether to use colors.
        """
        # With colors of the terminal's own, Textual can leave them out altogether.
        super().__init__(ansi_color=not in_color)
        self.error: Exception | None = None
        self._in_color = in_color
        self._by = by
        self._is_reverse = False
        self._text = text
        self._view = VIEWS[0]
        self._only: str | None = None
        self._frame: Frame | None = None
        self._is_paused = False
        self._came_at = time.monotonic()
        self._history: dict[str | None, deque[float]] = {}
        self._watcher = Watcher(
            functools.partial(FrameCollector, wanted, container_name),
            interval_s,
            lambda frame: self.post_message(self.Came(frame)),
            lambda error: self.post_message(self.Failed(error)),
        )

    def compose(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield Static(id="history", markup=False)
        yield Static(id="tabs", markup=False)
        yield Table()
        yield Static(id="details", markup=False)
        yield Input(self._text, id="filter", placeholder="names that contain", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.set_class(not self._in_color, "-without-color")
        self.query_one(Table).focus()
        # The terminal must not stay as it is now, whatever ends the program.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit)
        self._watcher.start()
        self.set_interval(1.0, self._show_if_late)
        self._show()

    def on_unmount(self) -> None:
        self._watcher.end()

    @on(Came)
    def _take(self, message: Came) -> None:
        frame = message.frame
        self._came_at = time.monotonic()
        self._remember(frame)
        if not self._is_paused:
            self._frame = frame
            self._show()

    @on(Failed)
    def _fail(self, message: Failed) -> None:
        self.error = message.error
        self.exit()

    def _remember(self, frame: Frame) -> None:
        """Keep how many operations there were, for all volumes and for each."""
        rates: dict[str | None, float] = {None: 0.0}
        for volume in frame.volumes:
            rate = volume.total.count / frame.seconds if volume.total is not None else 0.0
            rates[volume.served.mountpoint] = rate
            rates[None] += rate
        self._history = {
            key: self._history.get(key, deque(maxlen=_HISTORY)) for key in {*rates, self._only}
        }
        for key, past in self._history.items():
            past.append(rates.get(key, 0.0))

    def _show(self) -> None:
        """Redraw everything."""
        self._show_summary()
        self._say("tabs", self._tabs())
        if self._frame is None:
            return
        self._say("history", self._bars())
        by = column(self._view, self._by)
        found = rows(self._view, self._frame, self._only)
        shown = arranged(found, by, self._text, most=_MOST_ROWS, is_reverse=self._is_reverse)
        self.query_one(Table).show(
            Content(title(self._view), columns(self._view), shown, by, self._is_reverse)
        )
        self._show_details()

    def _show_if_late(self) -> None:
        if time.monotonic() - self._came_at > _LATE_S + self._watcher.interval_s:
            self._show_summary()

    def _show_summary(self) -> None:
        late_s = time.monotonic() - self._came_at - self._watcher.interval_s
        words = ["fusevol top"] if self.size.width >= _WIDE else []
        if self._is_paused:
            words.append("HELD")
        if late_s > _LATE_S:
            words.append(f"NO NEW NUMBERS FOR {late_s:.0f} s")
        words.append(self._scope())
        if self._frame is not None:
            words += as_rates(self._frame, self._only)
        self._say("summary", " " + "  ".join(words))

    def _say(self, where: str, text: str | Text) -> None:
        # The size stays, whatever is said, and a new layout takes longer than all else.
        self.query_one(f"#{where}", Static).update(text, layout=False)

    def _scope(self) -> str:
        if self._frame is None:
            return "looking..."
        volumes = chosen(self._frame, self._only)
        if self._only is not None:
            return name_of(volumes[0].served) if volumes else "not mounted now"
        return counted(len(volumes), "volume")

    def _tabs(self) -> Text:
        tabs = Text()
        for number, view in enumerate(VIEWS, 1):
            style = Style(reverse=True, bold=True) if view == self._view else Style()
            action = Style(meta={"@click": f"app.view('{view}')"})
            tabs.append(f" {number} {view.capitalize()} ", style + action)
            tabs.append(" ")
        if self._text:
            tabs.append(f" only {quoted(self._text)} ", "bold")
        return tabs

    def _bars(self) -> str:
        """Return operations per second over time, the newest at the right."""
        past = list(self._history.get(self._only, ()))
        peak = max(past, default=0.0)
        label = f"each {self._watcher.interval_s:g} s, at most {short(peak)} ops/s "
        room = max(self.size.width - len(label) - 2, 0)
        steps = len(_BARS) - 1
        # Whatever took place can be seen: up, not down.
        bars = [_BARS[-int(-rate * steps // peak)] if rate else "▁" for rate in past[-room:]]
        return label + "".join(bars).rjust(room)

    def _show_details(self) -> None:
        """Show everything about the selected row, and other notes."""
        frame, row = self._frame, self.query_one(Table).marked
        lines = []
        if frame is not None and not frame.volumes:
            lines.append(
                "you serve no mounts; those of `fusevol mount` and volumes in use appear here"
            )
        if row is not None:
            lines += [f"! {note}" for note in row.notes]
            lines.append(": ".join(filter(None, (row.name, row.details))))
            if row.failures:
                lines.append(f"failed: {row.failures}")
        elif self._text:
            lines.append(f"no name contains {quoted(self._text)}; Esc shows all")
        if frame is not None and self._view in VIEWS[2:]:
            lines += about_logs(chosen(frame, self._only))
        self._say("details", "\n".join(lines))

    @on(Table.Marked)
    def _marked(self) -> None:
        self._show_details()

    @on(Table.Chosen)
    def _chosen(self, message: Table.Chosen) -> None:
        if self._view == "volumes":
            self._only = message.row.identity["mountpoint"]
            self.action_view("operations")

    @on(Table.SortWanted)
    def _sort_wanted(self, message: Table.SortWanted) -> None:
        self._sort(message.column)

    @on(Input.Changed)
    def _filter_changed(self, message: Input.Changed) -> None:
        self._text = message.value
        self._show()

    @on(Input.Submitted)
    def _filter_given(self) -> None:
        self._leave_filter()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.height >= _TALL, "-tall")
        self._show()

    def action_view(self, view: str) -> None:
        """Show one of VIEWS."""
        if view != self._view:
            self._view = view
            self.query_one(Table).mark_first()
        self._show()

    def action_next_view(self, steps: int) -> None:
        """Show the view that stands so many further on."""
        self.action_view(VIEWS[(VIEWS.index(self._view) + steps) % len(VIEWS)])

    def action_next_sort(self, steps: int) -> None:
        """Sort by the column that stands so many further on, of those to be seen."""
        names = self.query_one(Table).visible_columns()
        by = column(self._view, self._by)
        place = names.index(by) + steps if by in names else 0
        if names:
            self._sort(names[place % len(names)])

    def _sort(self, by: ViewColumn) -> None:
        self._is_reverse = by.name == self._by and not self._is_reverse
        self._by = by.name
        self._show()

    def action_reverse(self) -> None:
        """Show small numbers first, or large ones again."""
        self._is_reverse = not self._is_reverse
        self._show()

    def action_filter(self) -> None:
        """Ask for a text that names have to hold."""
        field = self.query_one(Input)
        field.display = True
        field.focus()

    def _leave_filter(self) -> None:
        self.query_one(Input).display = False
        self.query_one(Table).focus()

    def action_step_back(self) -> None:
        """Go back one step: from the filter, from one volume."""
        field = self.query_one(Input)
        if field.has_focus or self._text:
            field.value = ""
            self._leave_filter()
        elif self._only is not None:
            self._only = None
            self.action_view("volumes")
        else:
            self.action_view("volumes")

    def action_pause(self) -> None:
        """Hold the picture, or go on."""
        self._is_paused = not self._is_paused
        self._show()

    def action_interval(self, steps: int) -> None:
        """Take the next longer or shorter interval."""
        now = self._watcher.interval_s
        others = [one for one in _INTERVALS_S if (one > now if steps > 0 else one < now)]
        if others:
            self._watcher.interval_s = others[0] if steps > 0 else others[-1]
        self._show()

    def action_help(self) -> None:
        """Explain keys and columns."""
        self.push_screen(Help())
