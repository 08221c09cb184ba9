"""How long operations took: how often each duration came, and what that says.

Memory is bounded, since long durations are rounded up to four digits.
"""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

_EXACT_US: Final = 10_000
_COARSE_BITS: Final = 4


def rounded(us: int) -> int:
    """Return `us` itself below ten milliseconds, else with four digits, rounded up."""
    if us < _EXACT_US:
        return us
    scale: int = 10 ** (len(str(us)) - 4)
    return -(-us // scale) * scale


def coarse(us: int) -> int:
    """Return `us` with its highest four bits only: at most an eighth less."""
    shift = us.bit_length() - _COARSE_BITS
    return us if shift <= 0 else us >> shift << shift


def percentiles_us(count_by_us: Mapping[int, int], *percents: int) -> list[int]:
    """Return, for each, the shortest duration that so many percent do not exceed; 0 for none."""
    durations = sorted(count_by_us)
    if not durations:
        return [0] * len(percents)
    ranks = list(accumulate(count_by_us[us] for us in durations))
    # In whole numbers: floats miss by one now and then.
    wanted = (-(-ranks[-1] * percent // 100) for percent in percents)
    return [durations[bisect_left(ranks, rank)] for rank in wanted]
