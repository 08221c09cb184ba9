"""The page of a report: one HTML file that needs nothing else, from any place.

What the log holds is in the page as JSON that no HTML parser can take for anything else. The page's
own policy forbids it all loading, all code but its own, and all making of HTML out of text.
"""

import base64
import hashlib
from importlib.resources import files
from typing import Any, Final

import msgspec

_POLICY: Final = (
    "default-src 'none'; style-src {style}; script-src {script}; img-src data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_ESCAPES: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def page(document: dict[str, Any]) -> bytes:
    """Return the page that shows a `document`, in UTF-8."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = _POLICY.format(style=_hash(style), script=_hash(script))
    parts = {
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "DATA": json_for_html(document),
    }
    html = _asset("page.html")
    # In one go: what is put in is not searched again.
    pieces = html.split("%%")
    return "".join(parts.get(piece, piece) for piece in pieces).encode()


def json_for_html(value: object) -> str:
    """Return `value` as JSON that can stand in a script element."""
    text = msgspec.json.encode(value).decode()
    # These are in strings only, as JSON has no other use for them.
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _asset(name: str) -> str:
    return files("fusevol.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
