"""Every cluster environment tells a worker its place, and refuses a start that went wrong."""

from collections.abc import Mapping

import pytest

from modum.cluster import ENVIRONMENTS, ClusterEnvironment, detect
from modum.cluster.by_hand import ByHand
from modum.cluster.modum_run import ModumRun
from modum.cluster.mpi import Mpi
from modum.cluster.single import Single
from modum.cluster.slurm import Slurm, allotted_tasks, first_host, tasks_on
from modum.cluster.torchelastic import TorchElastic
from modum.testing import check_environment

pytestmark = pytest.mark.usefixtures("bare_environment")

BOX = {"MODUM_BOX": "10.0.0.1:7500, 10.0.0.2:7500", "MODUM_TOKEN": "secret", "MODUM_JOB": "night-3"}
BY_HAND = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MODUM_GROUP_SIZE": "2"}
MODUM_RUN = {
    "MODUM_RANK": "5",
    "MODUM_WORLD_SIZE": "8",
    "MODUM_LOCAL_RANK": "1",
    "MODUM_GROUP_SIZE": "2",
    "MODUM_LAUNCHER": "modum run",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "4",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMI_FD": "9"}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "5",
    "MV2_COMM_WORLD_SIZE": "8",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
    "SLURM_STEP_NODELIST": "node[07-10]",
    "SLURM_NTASKS": "8",
    "PMI_RANK": "5",  # srun --mpi=pmi2 sets these two
    "PMI_SIZE": "8",
}

# A new environment comes here with what its launcher sets for rank 5 of 8, the second on its machine.
CASES: list[tuple[type[ClusterEnvironment], Mapping[str, str]]] = [
    (ModumRun, MODUM_RUN),
    (TorchElastic, TORCHRUN),
    (Mpi, OPEN_MPI),
    (Mpi, HYDRA),
    (Mpi, MVAPICH),
    (Slurm, SRUN),
    (ByHand, BY_HAND),
    (Single, {}),
]
MANY = [case for case in CASES if case[0] is not Single]


def name_of(case: tuple[type[ClusterEnvironment], Mapping[str, str]]) -> str:
    return f"{case[0].name}-{next(iter(case[1]), 'nothing')}"


def export(monkeypatch: pytest.MonkeyPatch, *variables: Mapping[str, str | None]) -> None:
    for each in variables:
        for name, value in each.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)


class TestEveryEnvironment:
    def test_is_registered_and_tried(self) -> None:
        assert set(ENVIRONMENTS) == {kind for kind, _ in CASES}

    @pytest.mark.parametrize("case", CASES, ids=name_of)
    def test_does_what_an_environment_must(self, case: tuple[type[ClusterEnvironment], Mapping[str, str]]) -> None:
        kind, variables = case
        rank, world_size, local_rank = (0, 1, 0) if kind is Single else (5, 8, 1)
        variables = {name: value for name, value in variables.items() if not name.startswith("MODUM_G")}
        check_environment(kind, variables, rank=rank, world_size=world_size, local_rank=local_rank)

    @pytest.mark.parametrize("case", CASES, ids=name_of)
    def test_is_the_one_that_is_found_by_its_own_variables(
        self, case: tuple[type[ClusterEnvironment], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind, variables = case
        with monkeypatch.context() as launched:
            export(launched, variables, BOX)
            found = detect()
        assert type(found) is kind
        export(monkeypatch, found.variables())
        assert detect() == found

    @pytest.mark.parametrize("case", MANY, ids=name_of)
    def test_of_many_workers_has_the_numbers_of_its_launcher(
        self, case: tuple[type[ClusterEnvironment], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        export(monkeypatch, case[1])
        found = detect()
        assert (found.rank, found.world_size, found.local_rank) == (5, 8, 1)
        assert (found.group, found.groups, found.group_rank, found.group_size) == (2, 4, 1, 2)

    @pytest.mark.parametrize("case", [case for case in MANY if case[0].has_rendezvous], ids=name_of)
    def test_makes_the_host_the_group_unless_told_otherwise(
        self, case: tuple[type[ClusterEnvironment], Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        export(monkeypatch, case[1])
        assert detect().group_is_host
        monkeypatch.setenv("MODUM_GROUP_SIZE", "4")
        assert (detect().group_size, detect().group_is_host) == (4, False)


def test_a_script_started_alone_is_rank_0_of_1() -> None:
    found = detect()
    assert (found.name, found.rank, found.world_size, found.group_size) == ("single", 0, 1, 1)
    assert found.box_servers == ()
    assert found.token is None


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (SRUN, OPEN_MPI, Mpi),  # mpirun in an allocation starts its daemons by srun
        (SRUN, HYDRA, Mpi),
        (SRUN, MODUM_RUN, ModumRun),
        (HYDRA, MODUM_RUN, ModumRun),
        (TORCHRUN, MODUM_RUN, ModumRun),
        (
            {**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_PROCID": "2"},
            TORCHRUN,
            TorchElastic,
        ),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}, TORCHRUN, TorchElastic),
        (SRUN, BY_HAND, Slurm),  # set from SLURM_PROCID, say: they agree
    ],
)
def test_the_innermost_launcher_counts(
    outer: Mapping[str, str],
    inner: Mapping[str, str],
    expected: type[ClusterEnvironment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export(monkeypatch, outer, inner)
    found = detect()
    assert type(found) is expected
    assert (found.rank, found.world_size) == (5, 8)


def test_groups_of_torchrun_need_not_fit_the_launcher_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    once_a_host = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_PROCID": "2"}
    export(monkeypatch, SRUN, once_a_host, TORCHRUN, {"MODUM_GROUP_SIZE": "8"})
    assert (detect().name, detect().group_size) == ("torchrun", 8)


@pytest.mark.parametrize("step", ["4294967291", "4294967290", None])
def test_the_batch_script_itself_is_no_step_of_srun(step: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, SRUN, {"SLURM_STEP_ID": step, "PMI_RANK": None, "PMI_SIZE": None})
    assert type(detect()) is Single
    assert allotted_tasks() == 8


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-4]", "n1"),
        ("gpu[007-009,012],login1", "gpu007"),
        ("rack[2,4]n[05-06]", "rack2n05"),
        ("a-b.c[3]", "a-b.c3"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_the_tasks_of_each_host_of_a_list_of_slurm() -> None:
    assert [tasks_on("4(x2),3,1(x2)", node) for node in range(5)] == [4, 4, 3, 1, 1]
    with pytest.raises(ValueError, match=r"SLURM_NODEID=5, but .* has 5 hosts"):
        tasks_on("4(x2),3,1(x2)", 5)


HINT = r"\nHINT: "


@pytest.mark.parametrize(
    ("variables", "changes", "message"),
    [
        (BY_HAND, {"WORLD_SIZE": None}, r"WORLD_SIZE is not set\nHINT: .*modum run -n 4 train\.py"),
        (BY_HAND, {"RANK": None}, r"RANK is not set\nHINT: "),
        (BY_HAND, {"LOCAL_RANK": None}, r"LOCAL_RANK is not set\nHINT: "),
        (BY_HAND, {"RANK": "first"}, r"RANK='first' is not an integer\nHINT: "),
        (BY_HAND, {"RANK": "8"}, r"rank \(8\) must be from 0 to world size - 1 \(7\)\nHINT: ranks count from 0"),
        (BY_HAND, {"RANK": "-1"}, r"rank \(-1\) must be from 0"),
        (BY_HAND, {"LOCAL_RANK": "8"}, r"local rank \(8\) must be from 0 to world size - 1 \(7\)\nHINT: "),
        (BY_HAND, {"WORLD_SIZE": "0"}, r"world size \(0\) must be at least 1"),
        (BY_HAND, {"MODUM_GROUP_SIZE": "3"}, r"group size \(3\) must divide .* \(8\)\nHINT: .* can be 1, 2, 4, 8"),
        (BY_HAND, {"MODUM_GROUP_SIZE": "0"}, r"group size \(0\) must be at least 1"),
        (BY_HAND, {"MODUM_GROUP_SIZE": "two"}, r"MODUM_GROUP_SIZE='two' is not an integer\nHINT: "),
        (BY_HAND, {"MODUM_JOB": "a/b"}, r"a job cannot be called 'a/b': .*\nHINT: modum run --name"),
        (TORCHRUN, {"RANK": None}, r"RANK is not set\nHINT: .*`torchrun"),
        (TORCHRUN, {"LOCAL_WORLD_SIZE": None}, r"LOCAL_WORLD_SIZE is not set\nHINT: .*`torchrun"),
        (TORCHRUN, {"MASTER_ADDR": None}, r"MASTER_ADDR is not set\nHINT: .*`torchrun"),
        (TORCHRUN, {"MASTER_PORT": None}, r"MASTER_PORT is not set\nHINT: .*`torchrun"),
        (TORCHRUN, {"MASTER_PORT": "ssh"}, r"MASTER_PORT='ssh' is not an integer\nHINT: .*`torchrun"),
        (TORCHRUN, {"LOCAL_WORLD_SIZE": "3"}, r"group size \(3\) must divide .* of this host are a group.*" + HINT),
        ({**OPEN_MPI, **HYDRA}, {}, r"two kinds of mpirun .*\(Open MPI: OMPI_COMM_WORLD_RANK=5.*" + HINT),
        (OPEN_MPI, {"OMPI_COMM_WORLD_SIZE": None}, r"OMPI_COMM_WORLD_SIZE is not set\nHINT: .*mpirun -n 4"),
        (OPEN_MPI, {"RANK": "0", "WORLD_SIZE": "8"}, r"mpirun says RANK=5, .* says RANK=0" + HINT + "unset RANK"),
        (SRUN, {"WORLD_SIZE": "2"}, r"srun says WORLD_SIZE=8, but the environment says WORLD_SIZE=2" + HINT),
        ({**TORCHRUN, **SRUN}, {"GROUP_WORLD_SIZE": "1"}, r"started torchrun 8 times, .*is 1:.*" + HINT + "srun -n 8"),
        ({**TORCHRUN, **HYDRA}, {"GROUP_WORLD_SIZE": None}, r"mpirun started torchrun 8 times, .* not set:.*" + HINT),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": "3,2(x2),1"}, r"tasks \(3,2\(x2\),1\).*\nHINT: .*MODUM_GROUP_SIZE=1"),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": None}, r"SLURM_STEP_TASKS_PER_NODE='' is no list of numbers" + HINT),
        (SRUN, {"SLURM_LOCALID": None}, r"SLURM_LOCALID is not set\nHINT: .*`srun -n 4"),
    ],
)  # fmt: skip
def test_a_wrong_start_is_refused_with_values_and_a_hint(
    variables: Mapping[str, str], changes: Mapping[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(monkeypatch, variables, changes)
    with pytest.raises(ValueError, match=message):
        detect()
