"""How containers are shown and named: one rule for ids and names, wherever they appear.

A record names a container by its full id, 64 hexadecimal digits, or by its name where an engine has
no such ids (`container`). An id is shown by its first digits and may be meant by its beginning, as
with Docker and Podman. A name is neither: names that begin alike are different containers.
"""

import re
from collections.abc import Callable, Collection
from typing import Final

from fusevol.record.record import AccessRecord

HOST: Final = "-"
"""Stands for processes of the host, where a container is asked for."""

SHORT_DIGITS: Final = 12
FULL_ID: Final = "[0-9a-f]{64}"
"""A regular expression, which Python and SQL read alike."""

_FULL_ID: Final = re.compile(FULL_ID)
_BEGINNING: Final = re.compile("[0-9a-f]{1,64}")


def is_full_id(container: str) -> bool:
    """Return whether a container is named by its id."""
    return _FULL_ID.fullmatch(container) is not None


def short_form(container: str) -> str:
    """Return what a container is shown as: the beginning of its id, or its whole name."""
    return container[:SHORT_DIGITS] if is_full_id(container) else container


def container_check(wanted: Collection[str]) -> Callable[[AccessRecord], bool]:
    """Return a function that says whether a record is of one of the `wanted` containers.

    Args:
        wanted: full ids, beginnings of ids, names; HOST for what is known to be of the host.
    """
    exact = frozenset(wanted)
    beginnings = tuple(text for text in wanted if _BEGINNING.fullmatch(text))
    host = HOST in exact

    def check(record: AccessRecord) -> bool:
        container = record.container
        if container is None:
            return host and record.pid is not None and record.identity_error is None
        if container in exact:
            return True
        return container.startswith(beginnings) and is_full_id(container)

    return check
