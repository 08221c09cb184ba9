"""Messages and entries as JSON, for paths that need not be valid UTF-8.

Python's own encoder writes the surrogates that stand for such bytes (os.fsdecode) as escapes, which
msgspec's refuses to.
"""

import json
import os
from typing import Any

import msgspec


def encode(message: object) -> bytes:
    """Return a struct, or a list of them, as JSON in ASCII."""
    return json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode()


def decode(data: bytes, kind: Any) -> Any:
    """Return what `encode` was given, of type `kind`.

    Raises:
        msgspec.DecodeError: `data` is not JSON, or not a `kind`, or has a string that stands for
            no bytes.
    """
    try:
        parsed = json.loads(data)
        if b"\\ud" in data.lower():
            os.fsencode(json.dumps(parsed, ensure_ascii=False))
        return msgspec.convert(parsed, type=kind)
    except UnicodeEncodeError as error:
        raise msgspec.DecodeError(f"invalid character {error.object[error.start]!a}") from None
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
