"""On which processor the client runs, and serving it there.

A client that waits for each answer gets it soonest from a thread on its own processor: an fstat
takes 12 us there and 28 to 50 us from another one. So the serving thread binds itself to the
processor of a client that is alone. With several clients a second processor is worth more.
"""

import contextlib
import os
from collections.abc import Callable

from fusevol.linux.processors import current_processor, processor_of


class ClientProcessor:
    """Follows the client from processor to processor. For one thread.

    Attributes:
        is_apart: the client ran on another processor when it was last seen.
    """

    def __init__(self, last_client: Callable[[], int], *, follows: bool) -> None:
        """Start unbound.

        Args:
            last_client: returns the thread id of the client that was served last, or 0.
            follows: bind this thread. Not where others are started while requests are served:
                a thread inherits what its starter is bound to (sched_setaffinity(2)).
        """
        self.is_apart = False
        self._last_client = last_client
        self._follows = follows
        self._client = 0
        self._allowed: set[int] = set()
        """Where this thread may run without being bound; empty while it is not."""

    def see(self, *, is_alone: bool) -> None:
        """Look where the client runs: every few milliseconds, while requests come.

        Args:
            is_alone: no other request is waiting. The same client has to be alone twice running.
        """
        before, client = self._client, self._last_client()
        processor = processor_of(client)
        if not is_alone or client != before:
            self.let_go()
        elif self._follows and processor is not None:
            self._bind(processor)
        self._client = client if is_alone else 0
        self.is_apart = processor is not None and processor != current_processor()

    def let_go(self) -> None:
        """Run wherever the system sees fit: before a thread is started, and when nothing comes."""
        self._client = 0
        if self._allowed:
            # Should the allowed ones have changed meanwhile, the kernel takes those that are left.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._allowed)
            self._allowed = set()

    def _bind(self, processor: int) -> None:
        allowed = self._allowed or os.sched_getaffinity(0)
        if processor not in allowed:
            return
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {processor})
            self._allowed = allowed
