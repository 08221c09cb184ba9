"""The same random steps natively and on a volume: what differs."""

import os
import random
import stat
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.differential.actor import Process
from tests.differential.actors import ACTORS
from tests.differential.calls import Result, access_list, tree
from tests.mounted.mounting import serving

NATIVE: Final = "native"
SOURCE: Final = "source"
VOLUME: Final = "volume"

_NAMES: Final = ("a", "b", "c", "d", "in/a", "in/b", "shared/a", "shared/b", "own/a", "own/b")
_DIRECTORIES: Final = (".", "in", "shared", "own", "a", "in/a")
_MODES: Final = (
    0o644, 0o600, 0o666, 0o755, 0o777, 0o2755, 0o2644, 0o2664, 0o2666, 0o2745, 0o4755, 0o6755,
    0o6777, 0o6666, 0o1777, 0o2777, 0o000,
)  # fmt: skip
_IDS: Final = (0, 1000, 1001, 1002, 2000, 3000, 100000, 100001, -1, -1)
_WRITABLE: Final = (os.O_WRONLY, os.O_RDWR)
_ACCESS_LIST: Final = "system.posix_acl_access"
_DEFAULT_LIST: Final = "system.posix_acl_default"
_ATTRIBUTES: Final = ("user.one", "user.two", "trusted.one", _ACCESS_LIST, _DEFAULT_LIST)
_AT_ONCE: Final = 25
"""Steps between two looks at the trees."""


@dataclass
class Step:
    """One call of an actor; paths are the arguments with these positions."""

    actor: str
    call: str
    arguments: tuple[Any, ...]
    paths: int = 1

    def below(self, directory: str) -> tuple[Any, ...]:
        """Return the arguments with paths below a directory."""
        paths = (os.path.join(directory, path) for path in self.arguments[: self.paths])
        return (*paths, *self.arguments[self.paths :])


@dataclass
class Differences:
    """What was found: each difference as text, and how many steps were taken."""

    steps: int = 0
    refused: int = 0
    found: list[str] = field(default_factory=list)


class Choice:
    """Random steps."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def step(self) -> Step:
        """Return the next one."""
        one = self._random.choice
        actor, name, other = one(list(ACTORS)), one(_NAMES), one(_NAMES)
        mode, umask = one(_MODES), one((0o022, 0, 0o077))
        uid, gid = one(_IDS), one(_IDS)
        content = b"x" * self._random.randrange(1, 50)
        steps = {
            "create": (name, mode, umask),
            "open": (name, one((os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC))),
            "write": (name, content, one(_WRITABLE) | one((0, os.O_APPEND, os.O_TRUNC))),
            "read": (name, one((0, os.O_NOATIME))),
            "truncate": (name, self._random.randrange(60)),
            "ftruncate": (name, self._random.randrange(60)),
            "fchmod and write": (name, mode, content),
            "mkdir": (name, mode, umask),
            "rmdir": (name,),
            "mknod": (name, one((stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK)) | mode),
            "symlink": (name, one(_NAMES)),
            "link": (name, other),
            "unlink": (name,),
            "rename": (name, other, one((0, 0, 1, 2, 4))),
            "chmod": (name, mode),
            "chown": (name, uid, gid),
            "lchown": (name, uid, gid),
            "utime": (name, (self._random.randrange(1 << 40), self._random.randrange(1 << 40))),
            "setxattr": (name, *self._attribute()),
            "getxattr": (name, one(_ATTRIBUTES)),
            "removexattr": (name, one(_ATTRIBUTES)),
            "listxattr": (name,),
            "listdir": (one(_DIRECTORIES),),
            "status": (name,),
            "access": (name, one((os.R_OK, os.W_OK, os.X_OK))),
            "readlink": (name,),
        }
        call = one(list(steps))
        arguments = steps[call]
        if call == "symlink":
            return Step(actor, call, (arguments[1], arguments[0]), paths=0)
        return Step(actor, call, arguments, paths=2 if call in ("link", "rename") else 1)

    def _attribute(self) -> tuple[str, bytes]:
        name = self._random.choice(_ATTRIBUTES)
        if name not in (_ACCESS_LIST, _DEFAULT_LIST):
            return name, b"v" * self._random.randrange(20)
        bits = [self._random.randrange(8) for _ in range(3)]
        return name, access_list(self._random.choice((2000, 3000)), *bits)


def prepare(top: Path) -> None:
    """Make what both sides begin with."""
    top.mkdir()
    top.chmod(0o777)
    for name, mode, owner, group in (
        ("in", 0o777, 0, 0), ("shared", 0o2777, 0, 2000), ("own", 0o1777, 1000, 1000),
    ):  # fmt: skip
        (top / name).mkdir()
        os.chown(top / name, owner, group)
        (top / name).chmod(mode)


def serve_and_compare(base: Path, level: str, seed: int, steps: int) -> Differences:
    """Serve `base`/source at a record level, and compare it with `base`/native."""
    for side in (NATIVE, SOURCE):
        prepare(base / side)
    (base / VOLUME).mkdir()
    with serving(base / SOURCE, base / VOLUME, base / "access.log", level):
        return compare(base, seed, steps)


def compare(base: Path, seed: int, steps: int) -> Differences:
    """Take random steps in `base`/native and, by the volume, in `base`/source.

    It stops at the first difference, as what follows would differ by it.
    """
    done = Differences()
    choice = Choice(seed)
    recent: list[str] = []
    with ExitStack() as stack:
        actors = {name: stack.enter_context(Process(name, base)) for name in ACTORS}
        while done.steps < steps and not done.found:
            step = choice.step()
            natively, there = (
                actors[step.actor].call(*_on(step, side)) for side in (NATIVE, VOLUME)
            )
            done.steps += 1
            done.refused += natively[0] == "error"
            recent = [*recent[-_AT_ONCE:], f"{step} {natively[1]!r}"]
            if natively != there and not _is_known(step, natively, there):
                done.found.append(f"{step}: natively {natively}, on the volume {there}")
            elif done.steps % _AT_ONCE == 0 or done.steps == steps:
                _compare_trees(base, recent, done)
    return done


def _on(step: Step, side: str) -> tuple[str, tuple[Any, ...]]:
    if step.call == "symlink":
        target, name = step.arguments
        return step.call, (target, os.path.join(side, name))
    return step.call, step.below(side)


def _is_known(step: Step, natively: Result, there: Result) -> bool:
    """Return whether a difference is one of docs/limits.md."""
    return (
        step.call in ("chown", "lchown")
        and step.arguments[1:] == (-1, -1)
        and (natively, there) == (("error", "EPERM"), ("ok", None))
    )


def _compare_trees(base: Path, recent: list[str], done: Differences) -> None:
    natively, there = tree(base / NATIVE), tree(base / SOURCE)
    for path in sorted(natively.keys() | there.keys()):
        if natively.get(path) != there.get(path):
            steps = "\n  ".join(recent)
            done.found.append(
                f"{path}: natively {natively.get(path)}, on the volume {there.get(path)}; after\n"
                f"  {steps}"
            )
