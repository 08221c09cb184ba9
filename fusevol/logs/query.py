"""SQL over the records of an access log, by DuckDB.

A query may read the log and nothing else: no other file, no network, and nothing is written.
DuckDB's settings see to that, and that a query becomes a view, in which it knows no statement that
changes anything. (The type of a statement says too little: `WITH x AS (COPY ...) SELECT` is a
SELECT to DuckDB 2.) A process that opens a database should give up its rights besides: see
`linux.landlock`.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

from fusevol.errors import FusevolError, UnsupportedError, UsageError
from fusevol.logs.filter import Filter
from fusevol.logs.lines import MAX_LINE_BYTES
from fusevol.logs.parallel import usable_processors
from fusevol.record.container_ids import FULL_ID, SHORT_DIGITS
from fusevol.record.record import EVENTS, AccessRecord

_MEMORY: Final = "2GiB"
"""What DuckDB may take; what needs more goes to files in its directory."""

_TYPES: Final = {int | None: "BIGINT", int: "BIGINT"}
_SPECIAL_TYPES: Final = {"time": "TIMESTAMPTZ", "since": "TIMESTAMPTZ", "ino": "UBIGINT"}

_TIME_TYPE: Final = "TIMESTAMP WITH TIME ZONE"

_MACROS: Final = (
    "CREATE MACRO under(path, top) AS path = top OR starts_with(path, rtrim(top, '/') || '/')",
    "CREATE MACRO folder(path) AS coalesce(nullif(parse_dirpath(path, 'forward_slash'), ''), '/')",
    f"""CREATE MACRO container_name(id) AS coalesce(
        element_at(names(), id)[1],
        if(regexp_full_match(id, '{FULL_ID}'), left(id, {SHORT_DIGITS}), id),
        'host')""",
)
"""`names()`, a map, comes with each connection."""


class ResultColumn(NamedTuple):
    """A column of an answer: its name, and its type as DuckDB calls it."""

    name: str
    type: str


class QueryResult:
    """What a query asks for; found when it is fetched.

    Each method raises UsageError where the query fails, and FusevolError where there is no room.
    """

    def __init__(self, connection: Any, duckdb: Any) -> None:
        self._connection = connection
        self._duckdb = duckdb
        with _explained(duckdb):
            rows = connection.execute("DESCRIBE answer").fetchall()
        self.columns = [ResultColumn(name, type_) for name, type_, *_others in rows]

    def texts(self, *, in_utc: bool = False) -> Iterator[tuple[str | None, ...]]:
        """Yield the rows, all values as text, times in local time by default."""
        values = (_in_utc(one) if in_utc else _identifier(one.name) for one in self.columns)
        return self._rows(", ".join(f"CAST({value} AS VARCHAR)" for value in values))

    def json(self) -> Iterator[bytes]:
        """Yield the rows as JSON objects, a line each, with times as the log has them."""
        members = ", ".join(f"{_identifier(one.name)} := {_in_utc(one)}" for one in self.columns)
        rows = self._rows(f"CAST(to_json(struct_pack({members})) AS VARCHAR)")
        return (row[0].encode() for row in rows if row[0] is not None)

    def write_parquet(self, path: str) -> None:
        """Write the rows to a file in the directory of the database."""
        with _explained(self._duckdb):
            self._connection.execute(f"COPY answer TO {_text(path)} (FORMAT parquet)")

    def _rows(self, selected: str) -> Iterator[tuple[str | None, ...]]:
        with _explained(self._duckdb):
            self._connection.execute(f"SELECT {selected} FROM answer")
            while rows := self._connection.fetchmany(1000):
                yield from rows


@contextlib.contextmanager
def answered(
    sql: str, paths: Sequence[str], wanted: Filter, names: Mapping[str, str], directory: str
) -> Iterator[QueryResult]:
    """Give out the answer to one SELECT about the view `log`.

    Args:
        sql: the query.
        paths: files of records in JSON, a line each.
        wanted: of which volumes and times records are.
        names: of containers, by their ids.
        directory: where what is too large for memory goes; it is all that DuckDB may write.

    Raises:
        UnsupportedError: there is no DuckDB.
        UsageError: the query is not a SELECT, or is not valid.
    """
    duckdb = imported()
    with _explained(duckdb):
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UsageError("invalid SQL: expected one SELECT; queries never change a log")
        config = {
            "threads": usable_processors(),
            "memory_limit": _MEMORY,
            "temp_directory": directory,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
        }
        with duckdb.connect(":memory:", config=config) as connection:
            _define(connection, paths, wanted, names)
            _lock(connection, paths, directory)
            connection.execute(f"CREATE TEMP VIEW answer AS {statements[0].query}")
            yield QueryResult(connection, duckdb)


def imported() -> Any:
    """Return the module duckdb.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return importlib.import_module("duckdb")
    except ImportError:
        raise UnsupportedError(
            "queries require DuckDB, which is not installed; pip install 'fusevol[analytics]'"
        ) from None


def _define(
    connection: Any, paths: Sequence[str], wanted: Filter, names: Mapping[str, str]
) -> None:
    """Make what queries are about: the view `log`, and what helps with it."""
    columns = ", ".join(f"{_text(key)}: {_text(type_)}" for key, type_ in _columns().items())
    # Lines that are not records were found before. Left is a line that is being written now: errors
    # are ignored for it, and make a row of nothing.
    connection.execute(
        f"CREATE VIEW log AS SELECT * FROM read_json([{', '.join(map(_text, paths))}], "
        f"format = 'newline_delimited', compression = 'none', columns = {{{columns}}}, "
        f"maximum_object_size = {2 * MAX_LINE_BYTES}, ignore_errors = true) "
        f"WHERE {' AND '.join(_conditions(wanted))}"
    )
    events = ", ".join(map(_text, EVENTS))
    connection.execute(f"CREATE VIEW ops AS SELECT * FROM log WHERE op NOT IN ({events})")
    known = ", ".join(f"{_text(id_)}: {_text(name)}" for id_, name in names.items())
    connection.execute(f"CREATE MACRO names() AS MAP {{{known}}}")
    for macro in _MACROS:
        connection.execute(macro)


def _columns() -> dict[str, str]:
    hints = get_type_hints(AccessRecord)
    return {
        key: _SPECIAL_TYPES.get(key, _TYPES.get(hints[key], "VARCHAR"))
        for key in AccessRecord.__struct_fields__
    }


def _conditions(wanted: Filter) -> Iterator[str]:
    yield "seq IS NOT NULL"
    if wanted.since is not None:
        yield f"time >= {_text(wanted.since)}::TIMESTAMPTZ"
    if wanted.until is not None:
        yield f"time < {_text(wanted.until)}::TIMESTAMPTZ"
    if wanted.volumes:
        yield f"volume IN ({', '.join(map(_text, wanted.volumes))})"


def _lock(connection: Any, paths: Sequence[str], directory: str) -> None:
    """Leave the files of the log and the directory, and no way to get more."""
    allowed = ", ".join(map(_text, paths))
    # It would come between the rows, as it is written to standard output.
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute(f"SET allowed_directories = [{_text(directory + '/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


@contextlib.contextmanager
def _explained(duckdb: Any) -> Iterator[None]:
    """Say in a line what DuckDB says in several."""
    try:
        yield
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.OutOfMemoryException:
        raise FusevolError(
            f"the query needs more than {_MEMORY} of memory and more disk space than there is; ask "
            "for less, or set TMPDIR to a directory with more space"
        ) from None
    except duckdb.IOException as error:
        raise FusevolError(
            f"the query failed: {_line(error)}; check the free space in TMPDIR"
        ) from None
    except duckdb.Error as error:
        raise UsageError(f"invalid SQL: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


def _in_utc(column: ResultColumn) -> str:
    name = _identifier(column.name)
    if column.type != _TIME_TYPE:
        return name
    return f"strftime(timezone('UTC', {name}), '%Y-%m-%dT%H:%M:%S.%fZ')"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
