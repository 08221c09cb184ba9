"""Ratios, geometric means and verdicts, from made-up samples."""

from collections.abc import Mapping

import pytest

from benchmarks.peers import Peer, all_peers, select
from benchmarks.results import Failure, Results, geometric_mean
from benchmarks.workloads import Row, Sample, Workload


class Made(Workload):
    name = "made"
    title = "Made up"
    rows = (Row("call", "a call", "us"), Row("stream", "a stream", "MB/s"))


PEERS: Mapping[str, Peer] = {peer.name: peer for peer in all_peers(("fusevol",), ())}


def results(**samples: list[tuple[float, float]]) -> Results:
    """Peer name, with _ for -, -> the values of both rows in each round."""
    workload = Made()
    made = Results(list(PEERS.values()), [workload])
    for name, rounds in samples.items():
        for call, stream in rounds:
            peer = PEERS[name.replace("_", "-")]
            made.add(workload, peer, Sample({"call": call, "stream": stream}))
    return made


def test_ratio_is_of_times_also_for_rates() -> None:
    made = results(native=[(1, 1000), (2, 1000), (9, 1000)], bindfs=[(8, 250)])
    call, stream = Made.rows
    assert made.ratio(Made(), call, "bindfs", "native") == 4
    assert made.ratio(Made(), stream, "bindfs", "native") == 4


def test_geometric_mean() -> None:
    assert geometric_mean([2, 8]) == pytest.approx(4)
    assert geometric_mean([]) is None


@pytest.mark.parametrize(
    ("ours", "reached"),
    [
        pytest.param((10, 400), True, id="four times as fast in both"),
        pytest.param((30, 120), False, id="faster in both, below the mean"),
        pytest.param((1, 99), False, id="above the mean, one row slower"),
    ],
)
def test_verdict_needs_mean_and_every_row(ours: tuple[float, float], reached: bool) -> None:
    (verdict,) = results(fusevol_all=[ours], loggedfs=[(40, 100)]).verdicts({})
    assert verdict.reached is reached


def test_verdict_without_every_row_needs_the_mean_only() -> None:
    (verdict,) = results(fusevol_data=[(1, 99)], bindfs=[(40, 100)]).verdicts({})
    assert verdict.reached
    assert [line.slower for line in verdict.lines] == [False, True]


def test_verdict_is_not_reached_without_a_value_of_ours() -> None:
    made = results(fusevol_all=[(1, 1000)], loggedfs=[(40, 100)])
    other = Made()
    other.name = "other"  # type: ignore[misc]
    made.workloads.append(other)
    made.add(other, PEERS["loggedfs"], Sample({"call": 40, "stream": 100}))
    made.failures.append(Failure("other", "fusevol-all", 1, "failed"))
    (verdict,) = made.verdicts({})
    assert not verdict.reached


def test_notes_and_noise_reach_the_line() -> None:
    made = results(fusevol_all=[(10, 50), (30, 50)], loggedfs=[(25, 40), (40, 40)])
    (verdict,) = made.verdicts({"fusevol-all/loggedfs": {"call": "because"}})
    call, stream = verdict.lines
    assert (call.note, call.noise) == ("because", True)
    assert (stream.note, stream.noise) == ("", False)


def test_peers_are_selected_by_pattern_in_the_order_of_columns() -> None:
    peers = list(PEERS.values())
    assert [p.name for p in select(peers, "loggedfs, native")] == ["native", "loggedfs"]
    assert len(select(peers, "fusevol-*")) == 6
    with pytest.raises(ValueError, match="'other'"):
        select(peers, "native,other")
