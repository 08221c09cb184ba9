"""The filter of system calls of a container, made of a profile that is installed on the host.

Profiles are written for engines (moby, profiles/seccomp): rules that hold for some architectures
or capabilities only. config.json has none of that, so it is decided here.
"""

import json
import os
import platform
from collections.abc import Mapping
from typing import Any, Final

from fusevol.errors import NotFoundError, UsageError
from fusevol.runtime.bundle import CAPABILITIES

INSTALLED: Final = (
    "/etc/containers/seccomp.json",
    "/usr/share/containers/seccomp.json",
)  # fmt: skip
"""Where distributions put the profile of Podman and Docker (golang-github-containers-common)."""

UNCONFINED: Final = "unconfined"

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"), "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"), "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "i686": ("x86", "SCMP_ARCH_X86"),
}  # fmt: skip
"""By uname(2): what profiles call them, and what libseccomp does."""
_TAKEN: Final = ("names", "action", "errnoRet", "args")


def installed_profile() -> str | None:
    """Return the path of the profile of this host; None if it has none."""
    return next((path for path in INSTALLED if os.path.exists(path)), None)


def load_profile(path: str) -> dict[str, Any]:
    """Return a profile in the form of config.json (runtime-spec, config-linux.md, "Seccomp").

    Raises:
        NotFoundError: it cannot be read.
        UsageError: it is none.
    """
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except OSError as error:
        raise NotFoundError(f"seccomp profile {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"seccomp profile {path}: {error}") from None
    try:
        return _profile(content)
    except KeyError as error:
        raise UsageError(f"seccomp profile {path}: {error} is missing") from None
    except (TypeError, AttributeError):
        raise UsageError(
            f"seccomp profile {path}: not in the format of Docker's profiles; "
            "check it against the defaults of your engine"
        ) from None


def _profile(content: Mapping[str, Any]) -> dict[str, Any]:
    name, token = _ARCHITECTURES.get(platform.machine(), ("", ""))
    found: dict[str, Any] = {"defaultAction": content["defaultAction"]}
    if content.get("defaultErrnoRet") is not None:
        found["defaultErrnoRet"] = content["defaultErrnoRet"]
    architectures = list(content.get("architectures") or ())
    for entry in content.get("archMap") or ():
        if entry["architecture"] == token:
            architectures += [token, *(entry.get("subArchitectures") or ())]
    if architectures:
        found["architectures"] = architectures
    found["syscalls"] = [
        _rule(rule) for rule in content.get("syscalls") or () if _applies(rule, name)
    ]
    return found


def _applies(rule: Mapping[str, Any], architecture: str) -> bool:
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    held = set(CAPABILITIES)
    return (
        held.issuperset(wanted.get("caps") or ())
        and architecture in (wanted.get("arches") or (architecture,))
        and not _is_older(wanted.get("minKernel"))
        and held.isdisjoint(unwanted.get("caps") or ())
        and architecture not in (unwanted.get("arches") or ())
        and (unwanted.get("minKernel") is None or _is_older(unwanted["minKernel"]))
    )


def _is_older(release: str | None) -> bool:
    """Return whether the kernel is older than a release such as "4.8"."""
    if release is None:
        return False
    mine = platform.release().split("-")[0].split(".")
    return tuple(map(int, mine[:2])) < tuple(map(int, release.split(".")[:2]))


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: rule[key] for key in _TAKEN if rule.get(key) is not None}
    # Profiles of the first days had one name in each rule.
    found.setdefault("names", [rule["name"]] if "names" not in rule else rule["names"])
    return found
