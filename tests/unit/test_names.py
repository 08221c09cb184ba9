import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusevol.names import decode_name, encode_name


@given(st.binary())
@example(b"\\")
@example(b"\\\\x41")
@example(b"\\xff")
@example(b"\xff\\xff")
@example("\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode()[:1] + b"\\")
def test_every_name_comes_back(name: bytes) -> None:
    assert decode_name(encode_name(name)) == name


@given(st.binary())
def test_text_survives_json(name: bytes) -> None:
    assert decode_name(json.loads(json.dumps(encode_name(name)))) == name


@given(st.binary(), st.binary())
def test_different_names_have_different_texts(one: bytes, other: bytes) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"report.txt", "report.txt"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e".encode(), "stra\N{LATIN SMALL LETTER SHARP S}e"),
        (b"a\nb", "a\nb"),
        (b"caf\xe9", "caf\\xe9"),
        (b"C:\\x41", "C:\\\\x41"),
        # UTF-8 as Python and the JSON of other languages see it: no surrogates, no overlong forms.
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"\xc0\xaf", "\\xc0\\xaf"),
    ],
)
def test_text_of_a_name(name: bytes, text: str) -> None:
    assert encode_name(name) == text
