"""What of a log's writer outlives it: words of 64 bits, in the recovery state of the mount."""

from typing import Final

FD: Final = 0
"""Descriptor of the log, plus one; 0 while there is none."""
SEQ: Final = 1
"""Number of the next record; 0 if there was no writer yet."""
LOST: Final = 2
"""Operations without a record that the log has not reported yet, the errno of the cause, 0 if that
is not known, and the time of the first of them in nanoseconds since 1970."""
LOST_ERRNO: Final = 3
LOST_SINCE: Final = 4
BYTES: Final = 5
"""Bytes written in all, records written in all, and operations that got no record."""
RECORDS: Final = 6
UNRECORDED: Final = 7
STATE_FD: Final = 8
"""Descriptor of what is kept in the state directory, plus one; 0 if there is none."""
SEEN: Final = 9
"""SEQ when the file was last seen to have a name."""
FAULT: Final = 10
"""errno of what keeps the log from being reopened; 0 if nothing does."""
NAMELESS: Final = 11
"""1 while the file has no name, or there is none, and no other can be opened."""
DELETED_NS: Final = 12
"""When the file was found to have been deleted last, in nanoseconds since 1970; 0 for never."""
COUNT: Final = 40
