"""The processes of a run, from the variables of launchers and from flags."""

import pytest
from absl import flags

from vit_jax.cluster import launchers
from vit_jax.errors import ConfigError


def processes(environ, **flags_set):
    values = flags.FlagValues()
    launchers.define_flags(values)
    values.mark_as_parsed()
    for name, value in flags_set.items():
        values[name].value = value
    return launchers.find_processes(values, environ)


SBATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = {**SBATCH, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
JAX_OWN = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
TPU_VM = {"TPU_ML_PLATFORM": "JAX"}
LEFT_TO_JAX = (None, None, None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (SBATCH, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, None),
        (SRUN, (None, 4, 2)),
        (OPEN_MPI, (None, 2, 1)),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (JAX_OWN, ("a:1", 2, 1)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", **SRUN}, ("a:1", 4, 2)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, LEFT_TO_JAX),
        ({"MEGASCALE_NUM_SLICES": "2"}, LEFT_TO_JAX),
        (TPU_VM, LEFT_TO_JAX),
        ({**TPU_VM, "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({**TPU_VM, "TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
)
def test_the_processes_are_read_from_the_environment(environ, expected):
    assert processes(environ) == expected


def test_flags_override_the_environment():
    asked = {"coordinator": "b:2", "num_processes": 3, "process_id": 0}
    assert processes(OPEN_MPI, **asked) == ("b:2", 3, 0)
    assert processes({}, distributed=True) == LEFT_TO_JAX


@pytest.mark.parametrize(
    ("environ", "flags_set", "message"),
    [
        ({}, {"coordinator": "a:1"}, "--num_processes: "),
        ({}, {"coordinator": "a:1", "num_processes": 2}, "--process_id: "),
        ({}, {"coordinator": "a", "num_processes": 2, "process_id": 0}, "--coordinator: .*HOST:"),
        ({}, {"num_processes": 2, "process_id": 2}, "--process_id: expected 0 to 1, got 2"),
        ({}, {"num_processes": 0, "process_id": 0}, "--num_processes: expected 1 or more"),
        ({"SLURM_STEP_NUM_TASKS": "two"}, {}, "SLURM_STEP_NUM_TASKS: expected a number"),
    ],
)
def test_incomplete_settings_are_an_error(environ, flags_set, message):
    with pytest.raises(ConfigError, match=message):
        processes(environ, **flags_set)
