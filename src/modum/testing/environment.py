"""The conformance suite of cluster environments: what every `modum.cluster.ClusterEnvironment` must do."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from modum.cluster import ClusterEnvironment

_COMMON: Final = {
    "MODUM_BOX": "10.0.0.1:7500, 10.0.0.2:7500",
    "MODUM_TOKEN": "a secret that nobody is to see",
    "MODUM_JOB": "night-3",
}


def check_environment(
    environment: type[ClusterEnvironment],
    variables: Mapping[str, str],
    *,
    rank: int,
    world_size: int,
    local_rank: int,
) -> None:
    """Check a cluster environment, replacing this process's environment variables meanwhile.

    Args:
        environment: the class to check.
        variables: what its launcher sets for one worker, without Modum's own.
        rank: that worker's number.
        world_size: number of workers.
        local_rank: that worker's number on its host.

    Raises:
        AssertionError: the environment does not do what `ClusterEnvironment` says; the message shows the result.
    """
    assert environment.name, "an environment has a name, which a person would understand"
    place = _read(environment, {**variables, **_COMMON})
    found, due = (place.rank, place.world_size, place.local_rank), (rank, world_size, local_rank)
    assert found == due, f"rank, world size and local rank are {due}, and it read {found}"
    _check_common(place)
    _check_group(environment, variables, place)
    _check_inverse(environment, place)
    _check_rendezvous(environment, place)
    for name in variables:
        _check_without(environment, {**variables, **_COMMON}, name)


def _check_common(place: ClusterEnvironment) -> None:
    servers = ("10.0.0.1:7500", "10.0.0.2:7500")
    assert place.box_servers == servers, f"MODUM_BOX names {servers}, and it read {place.box_servers}"
    assert place.token == _COMMON["MODUM_TOKEN"], f"the token came out as {place.token!r}"
    assert place.job == _COMMON["MODUM_JOB"], f"MODUM_JOB came out as {place.job!r}"
    assert _COMMON["MODUM_TOKEN"] not in repr(place), f"the token is shown: {place!r}"
    try:
        place.rank = 0  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise AssertionError("a place does not change: make the class a frozen dataclass")


def _check_group(
    environment: type[ClusterEnvironment], variables: Mapping[str, str], place: ClusterEnvironment
) -> None:
    whole = place.groups * place.group_size
    assert whole == place.world_size, f"{place.groups} groups of {place.group_size} are not {place.world_size} workers"
    first = place.group * place.group_size
    assert first + place.group_rank == place.rank, "consecutive ranks make a group"
    if place.world_size > 1:
        whole_job = _read(environment, {**variables, "MODUM_GROUP_SIZE": str(place.world_size)})
        found = (whole_job.group_size, whole_job.group_is_host)
        assert found == (place.world_size, False), f"MODUM_GROUP_SIZE={place.world_size} came out as {found}"


def _check_inverse(environment: type[ClusterEnvironment], place: ClusterEnvironment) -> None:
    places = [place, dataclasses.replace(place, box_servers=(), token=None, job="")]
    if place.world_size > 1:
        places.append(dataclasses.replace(place, group_size=place.world_size, group_is_host=False))
    for each in places:
        again = _read(environment, each.variables())
        assert again == each, f"variables() of {each} are those of {again}"


def _check_rendezvous(environment: type[ClusterEnvironment], place: ClusterEnvironment) -> None:
    if not environment.has_rendezvous:
        try:
            place.rendezvous(0.0)
        except TypeError:
            return
        raise AssertionError("rendezvous() is there, but has_rendezvous says that it is not")


def _check_without(environment: type[ClusterEnvironment], variables: Mapping[str, str], name: str) -> None:
    """Check that a launch without one variable is another launch, or refused, or does not need the variable."""
    with _variables({other: value for other, value in variables.items() if other != name}):
        if not environment.detect():
            return
        try:
            environment.read()
            return
        except ValueError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"without {name}, read() raised {error!r}, which is no ValueError") from error
    assert "\nHINT: " in message, f"without {name} it says {message!r}: a second line 'HINT: ...' says what to do"


def _read(environment: type[ClusterEnvironment], variables: Mapping[str, str]) -> Any:
    with _variables(variables):
        assert environment.detect(), f"with {sorted(variables)} it does not detect itself"
        return environment.read()


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables, and no others, inside."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
