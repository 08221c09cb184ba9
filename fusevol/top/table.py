"""The table of the live view: only what is visible is drawn, however many rows there are."""

from dataclasses import dataclass
from typing import ClassVar, Final

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fusevol.top.plain import cell_text
from fusevol.top.views import Row, ViewColumn

_LEAST_NAME: Final = 20
_BUSY: Final = 0.8


@dataclass(frozen=True, slots=True)
class Content:
    """What a table shows.

    Attributes:
        title: what stands above the names.
        columns: left of the names, the most important ones first.
        by: the column it is sorted by.
    """

    title: str
    columns: tuple[ViewColumn, ...]
    rows: list[Row]
    by: ViewColumn
    is_reverse: bool = False


def fitted(text: str, width: int) -> str:
    """Return text in exactly `width` cells: what is too long loses its middle."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    end = (width - 1) * 2 // 3
    tail = set_cell_size(text[::-1], end)[::-1]
    return f"{set_cell_size(text, width - 1 - end)}…{tail}"


def _kind(row: Row, column: ViewColumn) -> str:
    """Return in which style a number is shown."""
    value = column.value(row)
    if not value:
        return "idle"
    if column.name == "lost":
        return "alarm"
    if column.name in ("errors_per_s", "restarts") or (column.name == "busy" and value > _BUSY):
        return "failed"
    return "number"


class Table(ScrollView, can_focus=True):
    """Rows of a view below a header that stays, one of them marked.

    The mark goes with its row, but on the first row it stays: there is what is most.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header", "table--sorted", "table--marked", "table--name", "table--failed",
        "table--alarm", "table--number", "table--idle",
    }  # fmt: skip

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "move_page(-1)", show=False),
        Binding("pagedown", "move_page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Marked(Message):
        """Another row was marked."""

    class Chosen(Message):
        """The marked row is to be looked into."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    class SortWanted(Message):
        """Rows are to be sorted by a column."""

        def __init__(self, column: ViewColumn) -> None:
            super().__init__()
            self.column = column

    def __init__(self) -> None:
        super().__init__()
        self._content: Content | None = None
        self._index = 0
        self._styles: dict[tuple[str, bool], Style] = {}

    def notify_style_update(self) -> None:
        """Take other styles, as those of the application have changed."""
        super().notify_style_update()
        self._styles = {}

    @property
    def marked(self) -> Row | None:
        """Return the row that is marked; None if there is none at all."""
        rows = self._content.rows if self._content is not None else []
        return rows[self._index] if rows else None

    def show(self, content: Content) -> None:
        """Show other rows."""
        marked = self.marked
        self._content = content
        keys = [row.key for row in content.rows]
        if marked is not None and self._index and marked.key in keys:
            self._index = keys.index(marked.key)
        self._index = max(min(self._index, len(keys) - 1), 0)
        self._measure()
        self._scroll_to_mark()
        self.refresh()

    def mark_first(self) -> None:
        """Forget the mark, as for other content."""
        self._index = 0

    def visible_columns(self) -> list[ViewColumn]:
        """Return the columns for which there is room beside the names."""
        room = self.size.width - _LEAST_NAME
        found = []
        for column in self._content.columns if self._content is not None else ():
            room -= column.width + 1
            if room >= 0:
                found.append(column)
        return found

    def render_line(self, y: int) -> Strip:
        """Return one line: the header first."""
        content, width = self._content, self.size.width
        if content is None:
            return Strip.blank(width, self.rich_style)
        if y == 0:
            return Strip(self._header(content), width)
        index = self.scroll_offset.y + y - 1
        if index >= len(content.rows):
            return Strip.blank(width, self.rich_style)
        return Strip(self._line(content.rows[index], is_marked=index == self._index), width)

    def _header(self, content: Content) -> list[Segment]:
        segments = []
        for column in (columns := self.visible_columns()):
            is_by = column.name == content.by.name
            arrow = ("▲" if content.is_reverse else "▼") if is_by else " "
            text = f"{arrow}{column.title:>{column.width}}"
            segments.append(Segment(text, self._style("sorted" if is_by else "header")))
        title = fitted(f"  {content.title}", self._room(columns))
        return [*segments, Segment(title, self._style("header"))]

    def _line(self, row: Row, *, is_marked: bool) -> list[Segment]:
        segments = []
        for column in (columns := self.visible_columns()):
            text = f" {cell_text(row, column):>{column.width}}"
            segments.append(Segment(text, self._style(_kind(row, column), is_marked)))
        text = "  " + fitted(row.name, max(self._room(columns) - 2, 0))
        kind = "alarm" if row.notes else "name"
        return [*segments, Segment(text, self._style(kind, is_marked))]

    def _style(self, kind: str, is_marked: bool = False) -> Style:
        style = self._styles.get((kind, is_marked))
        if style is None:
            style = self.rich_style
            for one in (kind, *["marked"] * is_marked):
                style += self.get_component_rich_style(f"table--{one}")
            self._styles[kind, is_marked] = style
        return style

    def _room(self, columns: list[ViewColumn]) -> int:
        """Return how wide the names may be."""
        return max(self.size.width - sum(column.width + 1 for column in columns), 1)

    def on_resize(self, _event: Resize) -> None:
        self._measure()

    def _measure(self) -> None:
        count = len(self._content.rows) if self._content is not None else 0
        self.virtual_size = Size(self.size.width, count + 1)

    def action_move(self, steps: int) -> None:
        """Mark a row so many further down."""
        count = len(self._content.rows) if self._content is not None else 0
        self._index = max(min(self._index + steps, count - 1), 0)
        self._scroll_to_mark()
        self.refresh()
        self.post_message(self.Marked())

    def action_move_page(self, pages: int) -> None:
        """Mark a row so many pages further down."""
        self.action_move(pages * max(self.size.height - 2, 1))

    def action_choose(self) -> None:
        """Have the marked row looked into."""
        if (row := self.marked) is not None:
            self.post_message(self.Chosen(row))

    def on_click(self, event: Click) -> None:
        """Mark the row that was clicked; of the header, sort by the column."""
        if event.y > 0:
            clicked = self.scroll_offset.y + event.y - 1
            self.action_move(clicked - self._index)
            if event.chain == 2:
                self.action_choose()
            return
        end = 0
        for column in self.visible_columns():
            end += column.width + 1
            if event.x < end:
                self.post_message(self.SortWanted(column))
                return

    def _scroll_to_mark(self) -> None:
        top, rows = self.scroll_offset.y, max(self.size.height - 1, 1)
        if self._index < top:
            self.scroll_to(y=self._index, animate=False)
        elif self._index >= top + rows:
            self.scroll_to(y=self._index - rows + 1, animate=False)
