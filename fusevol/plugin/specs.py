"""Files that have engines call `fusevol hook`: for hooks.d, and CDI specifications."""

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from fusevol.binding.podman_hooks import ANNOTATION
from fusevol.errors import UsageError
from fusevol.options.binding import Binding

CDI_KIND: Final = "fusevol.io/volume"
_CDI_VERSION: Final = "0.3.0"
"""The oldest that has all we need: Podman 4.3 refuses those that are newer than itself."""
_TIMEOUT_S: Final = 120
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES: Final = (
    "FUSEVOL_RUNTIME_DIRECTORY", "FUSEVOL_STATE_DIRECTORY", "FUSEVOL_LOG_DIRECTORY",
)  # fmt: skip


def hooks_d(allowed: Sequence[str]) -> dict[str, Any]:
    """Return the hook of Podman, CRI-O and Buildah for containers with the annotation.

    Args:
        allowed: patterns for names of volumes that annotations may name.

    Format: oci-hooks(5), version 1.0.0.
    """
    return {
        "version": "1.0.0",
        "hook": _hook([word for name in allowed for word in ("--allow", name)]),
        "when": {"annotations": {f"^{ANNOTATION.replace('.', chr(92) + '.')}$": ".+"}},
        "stages": ["createContainer"],
    }


def cdi(bindings: Sequence[tuple[str, Binding]]) -> dict[str, Any]:
    """Return a specification of the Container Device Interface with a device for each volume.

    Args:
        bindings: each as it was said, and as it is meant.

    Raises:
        UsageError: two devices would have one name.
    """
    devices: dict[str, Any] = {}
    for text, binding in bindings:
        name = binding.volume
        if not binding.is_named:
            raise UsageError(
                f"invalid volume {text!r}: a device is named after its volume; use a named volume"
            )
        if name in devices:
            raise UsageError(f"volume {name} is given twice; a device has one place")
        hook = {"hookName": "createContainer", **_hook([text])}
        devices[name] = {"name": name, "containerEdits": {"hooks": [hook]}}
    return {"cdiVersion": _CDI_VERSION, "kind": CDI_KIND, "devices": list(devices.values())}


def _hook(words: Sequence[str]) -> dict[str, Any]:
    """Return the hook; runtimes give it neither a PATH nor any other environment of their own."""
    program = os.path.abspath(sys.argv[0])
    env = [f"PATH={_PATH}", *(f"{k}={os.environ[k]}" for k in _DIRECTORIES if k in os.environ)]
    return {
        "path": program, "args": [program, "hook", *words], "env": env, "timeout": _TIMEOUT_S,
    }  # fmt: skip
