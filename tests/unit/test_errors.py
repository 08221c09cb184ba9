from typing import Final

import pytest

from fusevol import errors
from fusevol.cli import main

EXIT_CODES: Final[dict[type[errors.FusevolError], int]] = {
    errors.FusevolError: 1,
    errors.UsageError: 2,
    errors.NotFoundError: 3,
    errors.NotPermittedError: 4,
    errors.UnsupportedError: 5,
    errors.MountError: 1,
    errors.NotRunError: 125,
}
"""Scripts rely on these numbers."""


def test_every_error_has_a_promised_exit_code() -> None:
    tree = set(errors.FusevolError.__subclasses__()) | {errors.FusevolError}
    assert {error: error.exit_code for error in tree} == EXIT_CODES


def test_mount_failure_is_what_mount_8_expects() -> None:
    assert errors.EXIT_MOUNT_FAILURE == 32


@pytest.mark.parametrize(("error", "exit_code"), EXIT_CODES.items())
def test_error_ends_the_command_with_one_line(
    error: type[errors.FusevolError],
    exit_code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*, standalone_mode: bool) -> None:
        assert not standalone_mode
        raise error("cannot mount /a on /b: no such directory; create it first")

    monkeypatch.setattr(main, "cli", fail)
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "fusevol: cannot mount /a on /b: no such directory; create it first\n"
