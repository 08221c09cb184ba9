"""What is promised, held against what a volume, its log and its receiver have."""

import os
from collections import Counter

from fusevol.logs.reader import parse
from fusevol.record.record import OK, AccessRecord
from tests.promises.clients import Clients, Done, tree_of
from tests.promises.events import Events
from tests.promises.options import Feature
from tests.promises.volume import Volume
from tests.served import fusevol, wait_until

_COUNTED = frozenset(
    {"create", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "setxattr"}
)


def records_of(volume: Volume) -> list[AccessRecord]:
    """Every record of a volume's log, those in rotated files too, in the order of their numbers."""
    files: list[list[AccessRecord]] = []
    for path in volume.logs():
        content = path.read_bytes()
        assert not content or content.endswith(b"\n"), f"{path} ends within a line"
        files.append([parse(line) for line in content.splitlines()])
    return [
        record for file in sorted(filter(None, files), key=lambda f: f[0].seq) for record in file
    ]


def check_tree(volume: Volume) -> None:
    """The volume is what its twin is, and so is the source."""
    native = tree_of(volume.twin)
    assert tree_of(volume.client) == native


def check_log(volume: Volume, clients: Clients, events: Events) -> Counter[str]:
    """Numbers have no gaps; each operation is there once, or counted as lost.

    Returns:
        How often each operation is there.
    """
    records = records_of(volume)
    numbers = [record.seq for record in records]
    first = numbers[0] if events.has_deleted_log else 1
    assert numbers == list(range(first, first + len(numbers)))
    lost = sum(record.lost or 0 for record in records if record.op == "gap")
    found = Counter(done for record in records if (done := _done(record)) is not None)
    wanted = Counter(clients.done)
    surplus = found - wanted
    missing = wanted - found
    if not events.has_deleted_log:
        assert missing.total() <= lost, f"neither in the log nor counted as lost: {missing}"
    assert not surplus, f"in the log, and no client did it: {surplus}"
    return Counter(done.op for done in found.elements())


def _done(record: AccessRecord) -> Done | None:
    if record.op not in _COUNTED or record.result != OK or record.pid != os.getpid():
        return None
    if record.op in ("link", "setxattr"):
        return Done(record.op, None, record.to or record.name)
    return Done(record.op, record.path, record.to)


def check_chain(volume: Volume, events: Events) -> None:
    """The log verifies."""
    if Feature.CHAIN in volume.options and not events.has_deleted_log:
        done = fusevol("log", "verify", volume.log, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def check_receiver(volume: Volume) -> None:
    """All that is in the log comes to the receiver, which is there; to be asked before the end.

    What a receiver lacks then it gets from the next mount.
    """
    receiver = volume.receiver
    if receiver is not None:
        written = {record.seq for record in records_of(volume)}
        wait_until(
            lambda: written <= {parse(line).seq for line in receiver.lines},
            "all records at the receiver",
        )
