"""Every cluster environment tells a worker its place, and refuses a start that went wrong."""

import dataclasses
import os
from collections.abc import Mapping

import pytest

from modum.launch import ENVIRONMENTS, ClusterEnvironment, detect
from modum.launch.local import ModumRun, Single

BOX = {"MODUM_BOX": "10.0.0.1:7500, 10.0.0.2:7500", "MODUM_TOKEN": "secret"}
MODUM_RUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MODUM_GROUP_SIZE": "2"}

# A new environment comes here with what its launcher sets for rank 5 of 8, the second on its machine.
CASES: dict[type[ClusterEnvironment], Mapping[str, str]] = {ModumRun: MODUM_RUN, Single: {}}
MANY = [case for case in CASES if case is not Single]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MODUM_BOX", "MODUM_TOKEN", "MODUM_GROUP", "RANK", "WORLD_", "LOCAL_", "MASTER_")):
            monkeypatch.delenv(name)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ClusterEnvironment:
    for name, value in {**CASES[request.param], **BOX}.items():
        monkeypatch.setenv(name, value)
    found = detect()
    assert type(found) is request.param
    return found


class TestEveryEnvironment:
    def test_is_registered_and_tried(self) -> None:
        assert set(ENVIRONMENTS) == set(CASES)

    def test_places_the_worker_in_the_job(self, environment: ClusterEnvironment) -> None:
        assert 0 <= environment.rank < environment.world_size
        assert 0 <= environment.local_rank < environment.world_size
        assert environment.groups * environment.group_size == environment.world_size
        assert environment.group * environment.group_size + environment.group_rank == environment.rank

    def test_knows_the_box_and_the_token(self, environment: ClusterEnvironment) -> None:
        assert environment.box_servers == ("10.0.0.1:7500", "10.0.0.2:7500")
        assert environment.token == "secret"

    def test_does_not_show_the_token(self, environment: ClusterEnvironment) -> None:
        assert "secret" not in repr(environment)

    def test_is_frozen(self, environment: ClusterEnvironment) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            environment.rank = 0  # type: ignore[misc]

    @pytest.mark.parametrize("case", MANY, ids=lambda case: case.name)
    def test_of_many_workers_has_the_numbers_of_its_launcher(
        self, case: type[ClusterEnvironment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in CASES[case].items():
            monkeypatch.setenv(name, value)
        found = case.read()
        assert (found.rank, found.world_size, found.local_rank) == (5, 8, 1)
        assert (found.group, found.groups, found.group_rank, found.group_size) == (2, 4, 1, 2)


def test_a_script_started_alone_is_rank_0_of_1() -> None:
    found = detect()
    assert (found.name, found.rank, found.world_size, found.group_size) == ("single", 0, 1, 1)
    assert found.box_servers == ()
    assert found.token is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": None}, r"WORLD_SIZE is not set\nHINT: .*modum run -n 4 train\.py"),
        ({"RANK": None}, r"RANK is not set\nHINT: "),
        ({"LOCAL_RANK": None}, r"LOCAL_RANK is not set\nHINT: "),
        ({"RANK": "first"}, r"RANK='first' is not an integer\nHINT: "),
        ({"RANK": "8"}, r"rank \(8\) must be from 0 to world size - 1 \(7\)\nHINT: ranks count from 0"),
        ({"RANK": "-1"}, r"rank \(-1\) must be from 0"),
        ({"LOCAL_RANK": "8"}, r"local rank \(8\) must be from 0 to world size - 1 \(7\)\nHINT: "),
        ({"WORLD_SIZE": "0"}, r"world size \(0\) must be at least 1"),
        ({"MODUM_GROUP_SIZE": "3"}, r"group size \(3\) must divide .* \(8\)\nHINT: .* can be 1, 2, 4, 8"),
        ({"MODUM_GROUP_SIZE": "0"}, r"group size \(0\) must be at least 1"),
        ({"MODUM_GROUP_SIZE": "two"}, r"MODUM_GROUP_SIZE='two' is not an integer\nHINT: "),
    ],
)
def test_a_wrong_start_is_refused_with_values_and_a_hint(
    changes: Mapping[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**MODUM_RUN, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        detect()
