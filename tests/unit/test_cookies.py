"""Positions in directories as clients get them."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from fusevol.volume.cookies import cookie, is_wide, position

_END = (1 << 63) - 1

halves = st.one_of(st.integers(0, 3), st.integers(0, (1 << 31) - 2))
wholes = st.builds(lambda upper, lower: upper << 32 | lower, halves, st.integers(0, (1 << 32) - 1))


@given(st.sets(wholes, min_size=1, max_size=40))
def test_each_leads_to_the_entry_that_comes_next(entries: set[int]) -> None:
    # As ext4 does: an entry's position is its hash, seeking leads to the first from there on.
    places = sorted(entries - {0})
    for before, after in zip([0, *places], [*places, _END], strict=True):
        given_out = cookie(after, before)
        assert 0 < given_out <= _END
        assert bisect_left(places, position(given_out)) == bisect_left(places, after)


def test_they_are_small_where_two_entries_do_not_share_the_upper_half() -> None:
    assert cookie(5 << 32 | 7, 4 << 32 | 9) == 5
    assert cookie(5 << 32 | 9, 5 << 32 | 7) == 5 << 32 | 9
    assert cookie(_END, 5 << 32) == (1 << 31) - 1
    assert position(0) == 0


def test_which_directories_have_wide_ones() -> None:
    assert is_wide(1 << 32)
    assert not is_wide((1 << 31) - 1)
