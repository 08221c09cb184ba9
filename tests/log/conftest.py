"""Mounts with names of their own: no two may have the same, not even in tests side by side."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _registry_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEVOL_RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("run") / "fusevol"))
        yield
