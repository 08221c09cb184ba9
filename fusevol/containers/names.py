"""Names of containers, looked up aside from what needs them.

All engines are asked at once for all of their containers, each in a thread of its own, and asked
again when an id turns up that none of them has listed. A lookup returns what is known by
now. What is waited for in all, until the end of the process, is bounded.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from fusevol.containers.engines import docker_names, podman_names
from fusevol.containers.state import all_containers
from fusevol.errors import FusevolError
from fusevol.options import config
from fusevol.record.container_ids import is_full_id

_SHORT_ID: Final = re.compile(r"[0-9a-f]{12,64}")
"""What no name looks like."""

_ENGINE_S: Final = 5.0
"""How long an engine may take."""
_PATIENCE_S: Final = 0.5
"""How long names are waited for, all waiting taken together."""
_SEARCH_S: Final = 2.0
"""How long a search by name may take."""
_AGAIN_S: Final = 1.0
_LONGEST_AGAIN_S: Final = 60.0
"""When engines are asked again: later each time that they had nothing new."""

Lister = Callable[[float], dict[str, str]]
"""Returns the names of an engine's containers by their ids, within a number of seconds."""


class ContainerNames:
    """What engines call their containers. To be used by one thread."""

    def __init__(self, listers: tuple[Lister, ...] | None = None) -> None:
        """Prepare; nobody is asked before the first question.

        Args:
            listers: the engines; None for all there are.
        """
        self._listers = (own_names, docker_names, podman_names) if listers is None else listers
        self._names: dict[str, str] = {}
        self._asking: list[threading.Thread] = []
        self._patience_s = _PATIENCE_S
        self._again_s = _AGAIN_S
        self._again_at = 0.0
        self._known = -1

    def name(self, container: str) -> str | None:
        """Return the name of a container by its full id; None if it is not known, or not yet."""
        name = self._names.get(container)
        if name is not None or not is_full_id(container):
            return name
        self._ask()
        if self._patience_s > 0:
            began = time.monotonic()
            self._wait(self._patience_s, lambda: container in self._names)
            self._patience_s -= time.monotonic() - began
        return self._names.get(container)

    def all(self) -> dict[str, str]:
        """Return the names of all containers by their ids; waits for all engines."""
        self._ask()
        self._wait(_SEARCH_S, lambda: False)
        return self._names.copy()

    def ids(self, name: str) -> list[str]:
        """Return the full ids of the containers that are called `name`; waits for all engines."""
        if _SHORT_ID.fullmatch(name):
            return []
        return sorted(found for found, other in self.all().items() if other == name)

    def _ask(self) -> None:
        """Have the engines asked, unless that is under way or was done a moment ago."""
        now = time.monotonic()
        if now < self._again_at or any(thread.is_alive() for thread in self._asking):
            return
        count = len(self._names)
        self._again_s = (
            _AGAIN_S if count > self._known else min(2 * self._again_s, _LONGEST_AGAIN_S)
        )
        self._known, self._again_at = count, now + self._again_s
        self._asking = [
            threading.Thread(target=self._list, args=(lister,), daemon=True)
            for lister in self._listers
        ]
        for thread in self._asking:
            thread.start()

    def _list(self, lister: Lister) -> None:
        try:
            self._names |= lister(_ENGINE_S)
        except (FusevolError, OSError, ValueError, KeyError, TypeError):
            # It is not there, or its answer is not readable: ids are shown without names then.
            return

    def _wait(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._asking:
            while thread.is_alive() and not is_enough():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                thread.join(min(left, 0.01))


def own_names(_timeout_s: float) -> dict[str, str]:
    """Return the names of the containers of `fusevol run` by their ids."""
    if not os.path.isdir(os.path.join(config.state_directory(), "containers")):
        return {}
    return {container.id: container.name for container in all_containers()}
