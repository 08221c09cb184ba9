r"""How long a record can be: the one bound that the log, its readers and all buffers rest on.

In a record, clients choose two paths at most (or a path and what a symbolic link says),
the name of an attribute and that of a process. The kernel bounds all of these but the paths: with
chdir(2) and the `*at` calls directories can be nested without end. So a path is written whole up
to LONGEST_PATH_BYTES, which is as much as a system call takes, and shortened beyond. What the host
chooses and no limit of the kernel's bounds is cut likewise.

No format takes more than six bytes for a byte of a name: JSON writes a control character as
\u0001. Two paths make 48 KiB of it; what else there is fits into the rest of LONGEST_LINE_BYTES,
in each format, which a test computes.
"""

from collections.abc import Iterable
from typing import Final

from fusevol.names import encode_name

LONGEST_PATH_BYTES: Final = 4096
"""PATH_MAX (limits.h)."""
LONGEST_VOLUME_BYTES: Final = 255
"""The name of a volume: NAME_MAX, since files are named after it."""
LONGEST_LINE_BYTES: Final = 64 * 1024
"""A record in any format, its newline included. `juicefs profile` reads no longer ones."""

END_BYTES: Final = 2000
"""What is kept of either end of something longer, at most."""


LEFT_OUT: Final = "//"
"""Stands in each path that is shortened, and in no other."""


def left_out(count: int) -> str:
    """Return what stands for `count` bytes of a path."""
    return f"{LEFT_OUT}...{count}...{LEFT_OUT}"


def last_names(names: Iterable[bytes]) -> tuple[str, int]:
    """Return the end of a path as text, and its length in bytes, from its names, the last first."""
    kept: list[str] = []
    count = -1
    for name in names:
        if count + 1 + len(name) > END_BYTES:
            break
        count += 1 + len(name)
        kept.append(encode_name(name))
    return "/".join(reversed(kept)), count


def path_text(names: list[bytes]) -> str:
    """Return the path that leads from the root over `names`, shortened where it is too long."""
    length = sum(len(name) + 1 for name in names)
    if length <= LONGEST_PATH_BYTES:
        return "/" + "/".join(map(encode_name, names))
    begin, kept = 1, 0
    while begin + len(names[kept]) + 1 <= END_BYTES:
        begin += len(names[kept]) + 1
        kept += 1
    tail, end = last_names(reversed(names))
    head = "/" + "/".join(map(encode_name, names[:kept]))
    return head + left_out(length - begin - end) + tail


def fitting(text: str) -> str:
    """Return `text`, or its ends if it is longer than a path may be."""
    content = text.encode(errors="backslashreplace")
    if len(content) <= LONGEST_PATH_BYTES:
        return text
    head = content[:END_BYTES].decode(errors="ignore")
    tail = content[-END_BYTES:].decode(errors="ignore")
    return f"{head}...{len(content) - len(head.encode()) - len(tail.encode())}...{tail}"
