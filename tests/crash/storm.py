"""The storm: eight processes that change names, files and locks, and check every result."""

import os
import random
import sys
import traceback
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Protocol

from tests.crash.account import SUFFIX, Account, Done, read_accounts
from tests.crash.client import Client
from tests.crash.names import Names
from tests.crash.opened import Fifo, Locked, Mapped, Removed, Unlinked
from tests.crash.shared import Appended, Counted, Listed, Races, wrong_lines, wrong_races
from tests.crash.workload import Figures, Place, main

CLIENTS: Final = 8
_STAYING: Final = frozenset(f"{'stays' * 8} {number}" for number in range(500))
_RACES, _LIST, _APPENDED, _COUNTED = "races", "list", "appended", "counted"


class Activity(Protocol):
    """One kind of thing that a client does, step by step."""

    def step(self) -> None: ...

    def finish(self) -> None:
        """Check what there is to check at the end, and let go of everything."""


def storm(place: Place) -> Figures:
    """Run all clients; check what they have done in common.

    Raises:
        AssertionError: anything was not as it has to be.
    """
    seed = random.randrange(1 << 32)
    _prepare(place, seed)
    context = get_context("fork")
    clients = [
        context.Process(target=_run, args=(place, number, seed)) for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failed = [number for number, client in enumerate(clients) if client.exitcode != 0]
    assert not failed, f"clients {failed} of the storm with the seed {seed} failed, see above"
    return _sum_up(place, seed)


def _client(place: Place, number: int, seed: int) -> Client:
    account = Account(place.scratch / f"{number}{SUFFIX}")
    return Client(number, str(place.directory.parent), random.Random(f"{seed} {number}"), account)


def _prepare(place: Place, seed: int) -> None:
    client = _client(place, CLIENTS, seed)
    directory = place.directory
    Races(client, f"{directory}/{_RACES}").prepare()
    os.close(client.create(f"{directory}/{_APPENDED}"))
    counted = client.create(f"{directory}/{_COUNTED}")
    os.write(counted, b"%20d" % 0)
    os.close(counted)
    client.mkdir(f"{directory}/{_LIST}")
    for name in _STAYING:
        os.close(client.create(f"{directory}/{_LIST}/{name}"))
    client.close()


def _run(place: Place, number: int, seed: int) -> None:
    """Be one client."""
    client = _client(place, number, seed)
    try:
        activities = _activities(client, place.directory)
        while place.goes_on():
            client.rng.choice(activities).step()
            activities[0].step()
        for activity in dict.fromkeys(activities):
            activity.finish()
    except BaseException as error:
        place.stop.touch()
        shown = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        sys.stderr.write(f"client {number}: {shown}\n")
        sys.exit(1)
    finally:
        client.close()


def _activities(client: Client, directory: Path) -> list[Activity]:
    """Return what a client does, the races first; what stands twice is done twice as often."""
    own = f"{directory}/{client.number}"
    client.mkdir(own)
    names = Names(client, f"{own}/names")
    unlinked = Unlinked(client, f"{own}/unlinked")
    appended = Appended(client, f"{directory}/{_APPENDED}")
    return [
        Races(client, f"{directory}/{_RACES}"), names, names, names, names, unlinked, unlinked,
        appended, appended, Mapped(client, f"{own}/mapped"), Locked(client, f"{own}/locked"),
        Fifo(client, f"{own}/fifo"), Removed(client, f"{own}/removed"),
        Counted(client, f"{directory}/{_COUNTED}"),
        Listed(client, f"{directory}/{_LIST}", _STAYING),
    ]  # fmt: skip


def _sum_up(place: Place, seed: int) -> Figures:
    """Check what the clients have in common; return how much they did."""
    name = place.directory.name
    count: Counter[str] = Counter()
    lines = 0
    races: list[Done] = []
    for done in read_accounts(place.scratch):
        count[done.op] += 1
        lines += done.op == "write" and done.path == f"/{name}/{_APPENDED}"
        if done.path.startswith(f"/{name}/{_RACES}/"):
            races.append(done)
    client = _client(place, CLIENTS, seed)
    wrong = wrong_races(races, f"/{name}/{_RACES}")
    wrong += wrong_lines(client.content_of(f"{place.directory}/{_APPENDED}"), lines, _APPENDED)
    counted = int(client.content_of(f"{place.directory}/{_COUNTED}"))
    if counted != count["count"]:
        wrong.append(f"{_COUNTED} says {counted}, and was raised {count['count']} times")
    client.close()
    assert not wrong, "\n".join(wrong[:20])
    return {"operations": count.total()}


if __name__ == "__main__":
    main(storm)
