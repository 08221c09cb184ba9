"""One served mount: opens source and log, speaks INIT with the kernel through libfuse, serves.

libfuse insists on answering INIT itself. It gets one end of a socket pair as its device and finds
the kernel's INIT request there; its answer is amended and sent to the kernel; then the real
/dev/fuse takes the place of the socket, under the same descriptor number.
"""

import contextlib
import errno
import hashlib
import logging
import os
import resource
import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

import pyfuse3
import trio

from fusevol.fuse.caching import Caching
from fusevol.fuse.deadline import Deadline
from fusevol.fuse.executor import Executor, InPlace, OneAtATime
from fusevol.fuse.lookup_reconciliation import LookupReconciliation
from fusevol.fuse.operations import operations
from fusevol.fuse.requestloop import RequestLoop
from fusevol.fuse.rollback import rollbacks
from fusevol.fuse.serving import Serving
from fusevol.fuse.subjects import Subjects
from fusevol.inodes.objects import Directory
from fusevol.linux import credentials
from fusevol.linux.files import descriptor_path
from fusevol.linux.filesystems import Storage
from fusevol.linux.mountinfo import is_below, mounts
from fusevol.linux.process import DESCRIPTORS_KEPT
from fusevol.model import UNKNOWN, RecordLevel
from fusevol.names import encode_name
from fusevol.options.config import NO_LOG, MountConfig
from fusevol.protocol.init import WANTED, Flag, amend_reply
from fusevol.protocol.resend import Leftovers, UnansweredRequest
from fusevol.record.record import FORMAT_VERSION, OK, AccessRecord
from fusevol.recording.caller import Callers
from fusevol.recording.coalescing import Coalescer
from fusevol.recording.opening import open_log
from fusevol.recording.record_filter import RecordFilter
from fusevol.recording.recorder import finishers, identified, recorded
from fusevol.recording.writer import LogWriter
from fusevol.recovery.coalesced_runs import CoalescedRun, RunEntries
from fusevol.recovery.counters import Counters
from fusevol.recovery.journal import Journal
from fusevol.recovery.region import (
    FLAGS,
    LOG_OPENED,
    LOG_WANTED,
    NOTES_TOLD,
    OPTIONS_TOLD,
    ROOT_FD,
    WORD,
    Region,
)
from fusevol.volume.source import open_source
from fusevol.volume.volume import Volume

logger = logging.getLogger(__name__)

_NEEDED: Final = (
    credentials.CAP_CHOWN,
    credentials.CAP_DAC_READ_SEARCH,
    credentials.CAP_FSETID,
    credentials.CAP_SETGID,
    credentials.CAP_SETUID,
    credentials.CAP_SETPCAP,
)
_MOST_PINS: Final = 8192
_MOST_CALLERS: Final = 512
_OWN_DESCRIPTORS: Final = 96
"""What no client can use up: worker and keeper have some thirty open, and take others for a moment
to close, to remove and to look callers up."""
_MESSAGE_BYTES: Final = 1 << 16
_KEEP_S: Final = 0.1
"""How old what is kept of the log's numbers may be; longer than a log goes without telling news."""


def _is_news(message: logging.LogRecord) -> bool:
    """Return whether a message of pyfuse3 is worth showing.

    An answer to a request that nobody waits for any more fails with ENOENT (fs/fuse/dev.c,
    fuse_dev_do_write): the client was killed, or the file system unmounted before the last release
    was answered.
    """
    text = message.getMessage()
    return not ("fuse_reply" in text and text.endswith(os.strerror(errno.ENOENT)))


logging.getLogger("pyfuse3").addFilter(_is_news)


class Session:
    """Serves one mount in this process."""

    def __init__(self, config: MountConfig, region: Region) -> None:
        """Open source and log, or go on with what an earlier worker left in `region`.

        Raises:
            FusevolError: source or log cannot be opened.
        """
        self._config = config
        self._region = region
        self._record_filter = RecordFilter(config.logging)
        self._name = encode_name(os.fsencode(config.name))
        descriptors = _raise_descriptor_limit()
        privileged = _take_credentials()
        self.flags = 0
        """What the mount gets besides its own flags, where it is yet to be made."""
        places: dict[int, int] | None = None
        root_fd = region.descriptor(ROOT_FD)
        if root_fd < 0:
            source = open_source(config, privileged)
            root_fd = source.fd
            self.flags, places = source.flags, source.places
            region.set_descriptor(ROOT_FD, root_fd)
        self._acl = _has_acls(root_fd)
        self._log: LogWriter | None = None
        last_seq = 0
        if config.log != NO_LOG:
            self._log = open_log(config, region.log_cells())
            last_seq = self._log.next_seq - 1
        self._journal = Journal(region)
        self._journal.load(last_seq)
        region.settle_telling(last_seq)
        self._coalescer: Coalescer | None = None
        self._runs: list[CoalescedRun] = []
        self._has_run = trio.Event()
        if self._log is not None:
            runs = RunEntries(region)
            self._runs = runs.pending(last_seq)
            self._coalescer = Coalescer(
                self._log, Counters(region), runs, config.logging.coalesce, self._run_begun
            )
        self._callers = min(_MOST_CALLERS, descriptors // 8)
        room = max(descriptors // 4, descriptors - self._callers - _OWN_DESCRIPTORS)
        self._volume = Volume(
            root_fd, privileged, min(_MOST_PINS, descriptors // 4), room, region,
            may_hang=config.deadline > 0, places=places,
        )  # fmt: skip
        self._loop: RequestLoop | None = None
        self._is_serving = False
        self.single_file = not os.path.isdir(descriptor_path(root_fd))

    async def serve(
        self, fuse_fd: int, init: bytes, started: Callable[[], None], leftovers: Leftovers
    ) -> None:
        """Serve requests from `fuse_fd` until the file system is unmounted.

        Args:
            init: the kernel's INIT request, already read from `fuse_fd`.
            started: called when requests are served.
            leftovers: what the keeper read in the absence of a worker.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.send(init)

        def connect() -> None:
            reply = ours.recv(_MESSAGE_BYTES)
            ours.close()
            is_first = not self._region.words[FLAGS]
            if is_first:
                reply, flags = amend_reply(init, reply, WANTED)
                os.write(fuse_fd, reply)
                self._region.words[FLAGS] = flags
            serving.caching.use(Flag(self._region.words[FLAGS]))
            self._is_serving = True
            os.dup2(fuse_fd, theirs.fileno(), inheritable=False)
            if is_first:
                self._tell_options(self._mount_record())
                self.tell_notes()
            else:
                self._take_over(leftovers)
                loop.set_chore(LookupReconciliation(fuse_fd, self._volume).go_on)
            started()

        callers = Callers(self._callers)
        loop = self._loop = RequestLoop(connect, lambda: callers.last_tid, self._journal)
        loop.install()
        serving = self._serving(loop, callers)
        answers = operations(serving, acl=self._acl, flushes=self._flushes())
        pyfuse3.init(answers, f"/dev/fd/{theirs.fileno()}", {"fsname=fusevol"})
        async with trio.open_nursery() as nursery:
            if self._coalescer is not None and self._config.logging.coalesce:
                nursery.start_soon(self._end_runs_in_time, self._coalescer)
            if self._log is not None:
                nursery.start_soon(_keep_numbers, self._log)
            try:
                await pyfuse3.main()
            finally:
                if self._coalescer is not None:
                    self._coalescer.end_all()
            nursery.cancel_scope.cancel()
        self._event(AccessRecord(op="unmount", result=OK))

    async def drain(self) -> None:
        """Read no more requests, and return when all that were read are answered."""
        if self._loop is not None:
            await self._loop.drain()

    def resume(self) -> None:
        """Go on after `drain`."""
        if self._loop is not None:
            self._loop.resume()

    def _run_begun(self) -> None:
        self._has_run.set()

    async def _end_runs_in_time(self, coalescer: Coalescer) -> None:
        """End each run of reads or writes when its time is over; never returns."""
        while True:
            await self._has_run.wait()
            now = perf_counter_ns()
            due_ns = coalescer.end_due(now)
            if due_ns is None:
                self._has_run = trio.Event()
            else:
                await trio.sleep(max(0.001, (due_ns - now) / 1e9))

    def _mount_record(self) -> AccessRecord:
        return AccessRecord(
            op="mount",
            result=OK,
            source=encode_name(os.fsencode(self._config.source)),
            level=self._config.level.value,
            format=FORMAT_VERSION,
            filter=self._record_filter.text or None,
        )

    def _tell_options(self, record: AccessRecord) -> None:
        """Write a record of what is recorded from now on."""
        self._event(record)
        self._region.words[OPTIONS_TOLD] = self._digest_of_options()

    def _tell_changed_options(self) -> None:
        """Record in the log what is recorded from now on, if that has changed."""
        told = self._region.words[OPTIONS_TOLD]
        if told == self._digest_of_options() or (not told and not self._record_filter.text):
            return
        level, text = self._config.level.value, self._record_filter.text or None
        self._tell_options(AccessRecord(op="update", result=OK, level=level, filter=text))

    def _digest_of_options(self) -> int:
        text = f"{self._config.level.value} {self._record_filter.text}".encode(errors="replace")
        return int.from_bytes(hashlib.blake2b(text, digest_size=WORD).digest()) | 1

    def _take_over(self, leftovers: Leftovers) -> None:
        """Record what happened since an earlier worker, and catch up with it."""
        for run in self._runs:
            self._tell_run(run)
        self.tell_notes()
        self._tell_changed_options()
        for ino, lookups in leftovers.forgotten:
            self._volume.inodes.forget(ino, lookups)
        for refused in leftovers.refused:
            self._event(self._refused_record(refused))

    def tell_notes(self) -> None:
        """Record what the keeper has noted for the log, once requests are served."""
        region = self._region
        if not self._is_serving:
            return
        for number in region.untold():
            if self._log is not None:
                note = region.note(number)
                self._log.catch_up()
                region.telling(number, self._log.next_seq)
                self._event(AccessRecord(op=note.op, result=note.result, reason=note.reason))
            region.words[NOTES_TOLD] = number + 1

    def _tell_run(self, run: CoalescedRun) -> None:
        """Write the record of reads or writes that an earlier worker has gathered."""
        assert self._coalescer is not None
        path = None
        with contextlib.suppress(OSError):
            path = self._volume.paths.of(self._volume.inode(run.opened.ino))
        self._coalescer.tell(run, self._name, path)

    def _refused_record(self, refused: UnansweredRequest) -> AccessRecord:
        path = None
        try:
            inode = self._volume.inode(refused.ino)
            path = self._volume.paths.of(inode)
            if refused.name and isinstance(inode, Directory):
                path = self._volume.paths.child(inode, refused.name)
        except OSError:
            logger.debug("inode %d of a refused request is not known", refused.ino)
        return AccessRecord(
            op=refused.op, path=path, result="EIO", uid=refused.uid, gid=refused.gid,
            pid=refused.pid, container=UNKNOWN, identity_error="ESRCH",
            reason="crashed the worker repeatedly, and was refused",
        )  # fmt: skip

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def reopen_log(self) -> None:
        """Reopen the log file, after it was renamed, if that is wanted and was not done."""
        words = self._region.words
        wanted = words[LOG_WANTED]
        if self._log is not None and words[LOG_OPENED] != wanted:
            self._log.reopen()
        words[LOG_OPENED] = wanted

    @property
    def is_chained(self) -> bool:
        """Whether `checkpoint` has to be called now and then."""
        return self._log is not None and self._log.is_chained

    def checkpoint(self) -> None:
        """Sign what came to the log since the last time."""
        if self._log is not None:
            self._log.checkpoint()

    def _event(self, record: AccessRecord) -> None:
        if self._log is not None:
            self._log.event(record)

    def _serving(self, loop: RequestLoop, callers: Callers) -> Serving:
        config, log, record_filter = self._config, self._log, self._record_filter
        counters = Counters(self._region)
        coalescer = self._coalescer if config.logging.coalesce else None
        may_have_record = recorded(log, config.level, record_filter)
        return Serving(
            name=self._name,
            volume=self._volume,
            subjects=Subjects(self._volume),
            caching=Caching(config.level, strict=config.strict),
            callers=callers,
            journal=self._journal,
            executor=self._executor(loop),
            identified=identified(log, may_have_record),
            recorded=may_have_record,
            admit=None if log is None else log.admit,
            finish=finishers(counters, log, config.level, record_filter, coalescer),
        )

    def _executor(self, loop: RequestLoop) -> Executor:
        if self._config.deadline:
            undo = rollbacks(self._volume)
            return Deadline(self._config.deadline, loop, self._journal, undo)
        if self._volume.storage is Storage.REMOTE:
            return OneAtATime(loop, self._journal)
        return InPlace(loop, self._journal)

    def _flushes(self) -> bool:
        """Return whether close(2) may have something to report, or each one is to be recorded.

        A local file system reports nothing at close(2) (only NFS and its like do), and at level
        `data` the release stands for the close; not to be asked saves a third of the requests of
        an open and close.
        """
        return (
            self._config.level is RecordLevel.ALL
            or not self._volume.privileged
            or self._volume.storage is Storage.REMOTE
            or any(is_below(mount.mountpoint, self._config.source) for mount in mounts())
        )


async def _keep_numbers(log: LogWriter) -> None:
    """Have the log keep its numbers soon after there are new ones; never returns."""
    news, wait = trio.open_memory_channel[None](1)

    def written() -> None:
        with contextlib.suppress(trio.WouldBlock):
            news.send_nowait(None)

    log.on_written = written
    try:
        async for _ in wait:
            await trio.sleep(_KEEP_S)
            log.keep()
    finally:
        log.on_written = lambda: None


def _raise_descriptor_limit() -> int:
    """Let this process have all descriptors but those kept for the keeper; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(hard - DESCRIPTORS_KEPT, hard // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def _take_credentials() -> bool:
    """Set this thread up to act for other users; return whether it may.

    Capabilities that exempt from what holds for clients are lowered for good, and raised for one
    call of a client that has them (`volume.acting`): without CAP_FSETID the host clears set-ID bits
    at each write, without CAP_SYS_RESOURCE quotas and reserved blocks count.
    """
    if not all(map(credentials.has_capability, _NEEDED)):
        return False
    credentials.keep_capabilities_across_fsuid()
    credentials.set_effective(credentials.CAP_FSETID, False)
    credentials.set_effective(credentials.CAP_SYS_RESOURCE, False)
    return True


def _has_acls(root_fd: int) -> bool:
    """Return whether the source's file system has POSIX ACLs; asking for them costs requests."""
    try:
        os.getxattr(descriptor_path(root_fd), "system.posix_acl_access")
    except OSError as error:
        return error.errno == errno.ENODATA
    return True
