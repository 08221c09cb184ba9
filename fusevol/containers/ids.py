"""Which users of the host those of a container are, if it has a user namespace of its own.

The host's administrator says in /etc/subuid and /etc/subgid (subuid(5)) which ids are for this:
those of the user `fusevol`, or else of `containers`, as with Podman's --userns=auto.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from fusevol.errors import NotFoundError

_OWNERS: Final = ("fusevol", "containers")
_USERS: Final = "/etc/subuid"
_GROUPS: Final = "/etc/subgid"


class IdRange(msgspec.Struct, frozen=True):
    """The host's ids of the users and groups 0 to `size` - 1 of a container."""

    first_uid: int
    first_gid: int
    size: int


def free_range(
    size: int, used: Iterable[IdRange], users: str = _USERS, groups: str = _GROUPS
) -> IdRange:
    """Return ids that no container uses.

    Args:
        size: how many.
        used: those of other containers.
        users, groups: files as of subuid(5) and subgid(5).

    Raises:
        NotFoundError: there are not so many.
    """
    taken = list(used)
    return IdRange(
        _free(users, size, [(one.first_uid, one.size) for one in taken]),
        _free(groups, size, [(one.first_gid, one.size) for one in taken]),
        size,
    )


def _free(path: str, size: int, taken: list[tuple[int, int]]) -> int:
    for first, count in _given(path):
        # The least free range begins where the given one does, or behind one that is taken.
        for start in sorted([first, *(begin + length for begin, length in taken)]):
            fits = first <= start and start + size <= first + count
            if fits and all(
                start + size <= begin or begin + length <= start for begin, length in taken
            ):
                return start
    raise NotFoundError(
        f"--userns: {path} has no {size} free ids for {_OWNERS[0]}; add a line such as "
        f"{_OWNERS[0]}:1000000000:1048576 to it"
    )


def _given(path: str) -> Iterator[tuple[int, int]]:
    try:
        with open(path) as file:
            lines = [line.strip().split(":") for line in file]
    except FileNotFoundError:
        return
    for owner in _OWNERS:
        found = [(int(line[1]), int(line[2])) for line in lines if _is_of(owner, line)]
        if found:
            yield from found
            return


def _is_of(owner: str, line: list[str]) -> bool:
    return len(line) == 3 and line[0] == owner and line[1].isdecimal() and line[2].isdecimal()
