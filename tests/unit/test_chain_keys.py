"""The secret of chained logs: one for all, for nobody else."""

import multiprocessing
import os
from pathlib import Path

import pytest

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError
from fusevol.proof import keys
from tests.served import needs_root


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSEVOL_STATE_DIRECTORY", str(tmp_path))
    return tmp_path / "chain" / "key"


def _links(_number: int) -> bytes:
    return keys.load_or_make().links


def test_whoever_comes_at_the_same_time_gets_the_same_key(path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        made = set(pool.map(_links, range(64), 1))
    assert made == {keys.load().links}
    assert os.listdir(path.parent) == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_key_is_made_by_reading() -> None:
    with pytest.raises(NotFoundError):
        keys.load()


def test_no_key_is_made_where_logs_were_chained_with_another(path: Path) -> None:
    links = keys.load_or_make().links
    (path.parent / "0123.head").touch()
    secret = path.read_bytes()
    path.unlink()
    with pytest.raises(FusevolError, match="is gone, but logs were chained with it"):
        keys.load_or_make()
    path.touch(0o600)
    path.write_bytes(secret)
    assert keys.load_or_make().links == links


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o610])
def test_a_key_for_others_is_refused(path: Path, mode: int) -> None:
    keys.load_or_make()
    path.chmod(mode)
    with pytest.raises(NotPermittedError, match=f"{mode:04o}"):
        keys.load_or_make()


def test_a_directory_that_others_may_change_is_refused(path: Path) -> None:
    keys.load_or_make()
    path.parent.chmod(0o770)
    with pytest.raises(NotPermittedError, match="0770"):
        keys.load()


@needs_root
def test_a_key_of_somebody_else_is_refused(path: Path) -> None:
    keys.load_or_make()
    os.chown(path, 65534, 65534)
    with pytest.raises(NotPermittedError, match="belongs to user 65534"):
        keys.load()


def test_a_link_and_a_damaged_key_are_refused(path: Path) -> None:
    keys.load_or_make()
    path.write_bytes(b"short")
    with pytest.raises(FusevolError, match="damaged"):
        keys.load()
    path.rename(path.with_name("other"))
    path.symlink_to("other")
    with pytest.raises(FusevolError, match="cannot be read"):
        keys.load()


def test_signatures_are_over_words_and_by_this_key(tmp_path: Path) -> None:
    ours = keys.load_or_make()
    signature = ours.sign("checkpoint", "v", 5, "ab")
    pem = tmp_path / "public.pem"
    pem.write_bytes(ours.public().pem())
    public = keys.PublicKey.load(str(pem))
    assert public.accepts(signature, "checkpoint", "v", 5, "ab")
    for words in (("checkpoint", "v", 5, "ac"), ("checkpoint", "v5", "ab"), ("v", 5, "ab")):
        assert not public.accepts(signature, *words)
    for wrong in (None, "", "?", signature[:-4], keys.Keys(b"x" * 32).sign("checkpoint", "v", 5)):
        assert not public.accepts(wrong, "checkpoint", "v", 5, "ab")
    pem.write_bytes(b"no key")
    with pytest.raises(FusevolError, match="not an Ed25519 key"):
        keys.PublicKey.load(str(pem))
