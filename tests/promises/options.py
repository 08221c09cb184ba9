"""What a volume can be asked for, and how it is asked for together."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from hypothesis import strategies as st


class Feature(Enum):
    """One thing that can be asked for besides the defaults."""

    DATA = "record=data"
    ECS = "format=ecs"
    OCSF = "format=ocsf"
    CHAIN = "chain"
    SINK = "sinks=unix:{receiver}"
    ROTATION = "rotate_size=16K"
    COALESCING = "coalesce=0.2"
    EXCLUDE = "exclude=op=getattr|lookup"
    FAILURES = "failure=none"
    DEADLINE = "deadline=60"
    DENY = "on_log_failure=deny"
    READ_ONLY = "ro"
    SINGLE_FILE = "a single file as source"
    NESTED = "another file system below the source"
    DISK = "source on a disk"
    SERVED = "a volume of fusevol serve"


_EXCLUDING: Final = (
    {Feature.ECS, Feature.OCSF},
    {Feature.NESTED, Feature.SINGLE_FILE},
    {Feature.COALESCING, Feature.DENY},
)
_AGENT: Final = {Feature.SINK, Feature.ROTATION}
_WORDS: Final = (
    Feature.ECS, Feature.OCSF, Feature.CHAIN, Feature.ROTATION, Feature.COALESCING,
    Feature.EXCLUDE, Feature.FAILURES, Feature.DEADLINE, Feature.DENY,
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The features of one volume."""

    features: frozenset[Feature]

    def __contains__(self, feature: Feature) -> bool:
        return feature in self.features

    def __repr__(self) -> str:
        return f"Options.of({', '.join(sorted(feature.name for feature in self.features))})"

    @property
    def level(self) -> str:
        """The record level."""
        return "data" if Feature.DATA in self else "all"

    @property
    def needs_agent(self) -> bool:
        """Whether a log agent has to run."""
        return bool(self.features & _AGENT)

    def words(self, receiver: str) -> list[str]:
        """What comes after `-o`, word by word.

        Args:
            receiver: path of a socket that takes records.
        """
        words = [feature.value for feature in _WORDS if feature in self]
        if Feature.SINK in self:
            words.append(Feature.SINK.value.format(receiver=receiver))
        return words


def _can_be(features: frozenset[Feature]) -> bool:
    return not any(pair <= features for pair in _EXCLUDING)


OPTIONS: Final = (
    st.frozensets(st.sampled_from(Feature), min_size=1, max_size=3).filter(_can_be).map(Options)
)
"""Singles, pairs and triples."""
