"""`fusevol hook`: an OCI hook that binds volumes of `fusevol serve` into a container.

Which volumes, what they may be, and the reference to each, which ends with the first process of the
container. How a container that is being created is entered is `binding.creating`.
"""

from collections.abc import Sequence
from contextlib import closing
from fnmatch import fnmatchcase

from fusevol.binding.creating import Creation, OciState
from fusevol.binding.podman_hooks import ANNOTATION
from fusevol.errors import UsageError
from fusevol.options.binding import Binding, check_places, parse_binding
from fusevol.server.control import Client


def wanted(state: OciState, words: Sequence[str], allowed: Sequence[str]) -> list[Binding]:
    """Return the volumes of a container: those of the hook's arguments, or of its annotation.

    An image can carry annotations, which Podman hands on as if its user had given them. So one
    reaches volumes only that the host's administrator has allowed, and never a path of the host.

    Args:
        state: the container.
        words: the hook's arguments; if there are any, the annotation does not count.
        allowed: patterns (fnmatch) for names of volumes that annotations may name.

    Raises:
        UsageError: one says nothing that can be meant, or is not allowed.
    """
    said = "" if words else (state.annotations or {}).get(ANNOTATION, "")
    bindings = [parse_binding(word) for word in words or said.split(",") if word]
    for binding in () if words else bindings:
        if not binding.is_named or not any(fnmatchcase(binding.volume, one) for one in allowed):
            raise UsageError(
                f"annotation {ANNOTATION}: {binding.volume or 'a new volume'} is not allowed, as "
                f"an image could request it; allow volumes by name with fusevol hook --allow NAME"
            )
    check_places(bindings)
    return sorted(bindings, key=lambda binding: binding.destination.count("/"))


def bind_volumes(state: OciState, bindings: Sequence[Binding]) -> None:
    """Bind volumes into a container before its root is changed.

    Raises:
        FusevolError: one cannot be bound. None is referred to then.
    """
    with closing(Creation(state)) as container, Client() as daemon:
        held: list[str] = []
        try:
            for binding in bindings:
                name = _name(daemon, binding)
                volume = daemon.mount(name, state.id, container.pid)
                held.append(name)
                container.bind(
                    volume.mountpoint, binding.subpath, daemon.pid, binding.destination,
                    binding.read_only,
                )  # fmt: skip
        except BaseException:
            for name in held:
                daemon.unmount(name, state.id)
            raise


def _name(daemon: Client, binding: Binding) -> str:
    if binding.is_named:
        return binding.volume
    return daemon.create("", {"source": binding.volume} if binding.volume else {}).name
