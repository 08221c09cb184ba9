"""The secret of this host's chained logs, and the keys that are made of it.

    STATE/chain/key    32 random bytes, made when the first log is chained, for its owner alone

The key of the hashes and the one that signs checkpoints (Ed25519) are both derived from it, so one
file has to be kept secret and backed up. Signing takes the package cryptography, which is loaded
when the first signature is made.
"""

import base64
import contextlib
import hashlib
import importlib
import importlib.util
import os
import secrets
import stat
from typing import Any, Final

import msgspec

from fusevol.errors import FusevolError, NotFoundError, NotPermittedError, UnsupportedError
from fusevol.options import config

_SECRET_BYTES: Final = 32
_FOR_LINKS: Final = b"fusevol links"
_FOR_SIGNING: Final = b"fusevol signing"
_NOT_FOR_OTHERS: Final = 0o077

HEAD: Final = ".head"
"""How the file ends that is kept of each chained log, beside the key."""

Word = str | int
"""What signatures are made over: lists of these."""


class PublicKey:
    """Says whether signatures are genuine."""

    def __init__(self, key: Any) -> None:
        self._key = key

    @classmethod
    def load(cls, path: str) -> "PublicKey":
        """Return the key in a PEM file.

        Raises:
            NotFoundError, NotPermittedError, FusevolError: there is none.
            UnsupportedError: the package cryptography is missing.
        """
        serialization = _cryptography("serialization")
        ed25519 = _cryptography("asymmetric.ed25519")
        content = _read(path, f"public key {path}")
        try:
            key = serialization.load_pem_public_key(content)
        except ValueError:
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise FusevolError(
                f"public key {path} is not an Ed25519 key in PEM; create it with: fusevol log key "
                f"> FILE"
            )
        return cls(key)

    def accepts(self, signature: str | None, *words: Word) -> bool:
        """Return whether `signature` was made over these words."""
        exceptions: Any = importlib.import_module("cryptography.exceptions")
        try:
            self._key.verify(base64.b64decode(signature or "", validate=True), _message(words))
        except (exceptions.InvalidSignature, ValueError):
            return False
        return True

    def pem(self) -> bytes:
        """Return the key as PEM (SubjectPublicKeyInfo)."""
        serialization = _cryptography("serialization")
        content: bytes = self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return content


class Keys:
    """What is derived from the secret.

    Attributes:
        links: the key of the hashes.
    """

    def __init__(self, secret: bytes) -> None:
        self.links = _derived(secret, _FOR_LINKS)
        self._seed = _derived(secret, _FOR_SIGNING)
        self._signing: Any = None

    def sign(self, *words: Word) -> str:
        """Return a signature over these words, in base64.

        Raises:
            UnsupportedError: the package cryptography is missing.
        """
        return base64.b64encode(self._signing_key().sign(_message(words))).decode()

    def public(self) -> PublicKey:
        """Return the key that verifies our signatures.

        Raises:
            UnsupportedError: the package cryptography is missing.
        """
        return PublicKey(self._signing_key().public_key())

    def _signing_key(self) -> Any:
        if self._signing is None:
            ed25519 = _cryptography("asymmetric.ed25519")
            self._signing = ed25519.Ed25519PrivateKey.from_private_bytes(self._seed)
        return self._signing


def directory() -> str:
    """Return where the key is, and what is kept beside it."""
    return os.path.join(config.state_directory(), "chain")


def key_path() -> str:
    """Return where the secret is."""
    return os.path.join(directory(), "key")


def require_signing() -> None:
    """Raise UnsupportedError unless checkpoints can be signed; loads nothing."""
    try:
        found = importlib.util.find_spec("cryptography")
    except ImportError:
        found = None
    if found is None:
        raise _missing()


def check_usable() -> None:
    """Check that a log can be chained here, by the keys of this host or by new ones.

    Raises:
        UnsupportedError: the package that signs is missing.
        NotPermittedError, FusevolError: the key cannot be read, or others could.
    """
    require_signing()
    with contextlib.suppress(NotFoundError):
        load()


def load() -> Keys:
    """Return the keys of this host.

    Raises:
        NotFoundError: no log was chained here yet.
        NotPermittedError, FusevolError: the key cannot be read, or others could.
    """
    path = key_path()
    secret = _read(path, f"chain key {path}", secret=True)
    if len(secret) != _SECRET_BYTES:
        raise FusevolError(f"chain key {path} is damaged; restore it from a backup")
    return Keys(secret)


def load_or_make() -> Keys:
    """Return the keys of this host; make them if no log was chained yet.

    Raises:
        NotPermittedError, FusevolError: the key cannot be read or made, others could read it, or it
            is gone.
    """
    try:
        return load()
    except NotFoundError:
        if heads():
            # By another key, what stands in the logs would look as if it had been changed.
            raise FusevolError(
                f"chain key {key_path()} is gone, but logs were chained with it; restore it from a "
                f"backup, or if it is lost, move {directory()} away to start new chains"
            ) from None
        _make()
    return load()


def heads() -> list[str]:
    """Return the names of what is kept of each log that was chained, in order; see `HEAD`."""
    try:
        names = os.listdir(directory())
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name.endswith(HEAD))


def _make() -> None:
    """Make the secret; the first process decides."""
    path = key_path()
    temporary = f"{path}.{secrets.token_hex(8)}"
    try:
        os.makedirs(directory(), mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(fd)
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise FusevolError(f"cannot create the chain key {path}: {error.strerror}") from None


def _read(path: str, what: str, *, secret: bool = False) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if secret else 0))
        with open(fd, "rb") as file:
            if secret:
                _check_is_ours(os.stat(os.path.dirname(path)), os.path.dirname(path), 0o022)
                _check_is_ours(os.fstat(fd), path, _NOT_FOR_OTHERS)
            return file.read(1 << 16)
    except FileNotFoundError:
        raise NotFoundError(f"{what} does not exist") from None
    except PermissionError:
        raise NotPermittedError(f"{what} cannot be read: permission denied") from None
    except OSError as error:
        raise FusevolError(f"{what} cannot be read: {error.strerror}") from None


def _check_is_ours(status: os.stat_result, path: str, forbidden: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise NotPermittedError(
            f"{path} belongs to user {status.st_uid}, so it proves nothing to you"
        )
    if mode & forbidden:
        raise NotPermittedError(
            f"{path} has mode {mode:04o}, so others may know or change the chain key; if you are "
            f"sure that nobody has: chmod {mode & ~forbidden:o} {path}"
        )


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=secret, digest_size=_SECRET_BYTES, person=purpose).digest()


def _message(words: tuple[Word, ...]) -> bytes:
    return msgspec.json.encode(words)


def _cryptography(name: str) -> Any:
    try:
        return importlib.import_module(f"cryptography.hazmat.primitives.{name}")
    except ImportError:
        raise _missing() from None


def _missing() -> UnsupportedError:
    return UnsupportedError(
        "the option chain requires the Python package cryptography; pip install 'fusevol[proof]'"
    )
