"""The processes of a run and the index of this one, from flags or from a launcher."""

from collections.abc import Mapping

from absl import flags

from vit_jax.errors import ConfigError

# The variables in which a launcher gives each process the number of processes and its own index.
# Slurm sets these only for the tasks of a step; SLURM_NTASKS is also set in a batch script.
LAUNCHERS = {
    "JAX_NUM_PROCESSES": "JAX_PROCESS_ID",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
}
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of a command that several hosts can run together."""
    help_text = "HOST:PORT of process 0, to which all processes of a run connect."
    flags.DEFINE_string("coordinator", None, help_text, flag_values=values)
    help_text = "The number of processes."
    flags.DEFINE_integer("num_processes", None, help_text, flag_values=values)
    help_text = "The index of this process, from 0."
    flags.DEFINE_integer("process_id", None, help_text, flag_values=values)
    help_text = (
        "Let JAX detect the coordinator and the processes. "
        "On TPU pods, Slurm and Open MPI this is the default."
    )
    flags.DEFINE_bool("distributed", False, help_text, flag_values=values)


def find_processes(
    values: flags.FlagValues, environ: Mapping[str, str]
) -> tuple[str | None, int | None, int | None] | None:
    """Return the coordinator, the number of processes and the index of this one.

    Each of them is None if JAX is to detect it. Returns None if this is the only process.

    Args:
      values: The flags of the command.
      environ: The environment variables.

    Raises:
      ConfigError: A value is wrong or missing.
    """
    coordinator = values.coordinator or environ.get("JAX_COORDINATOR_ADDRESS")
    count = values.num_processes
    index = values.process_id
    for count_name, index_name in LAUNCHERS.items():
        launched, which = _number(environ, count_name), _number(environ, index_name)
        if launched is not None and launched > 1 and which is not None:
            count = launched if count is None else count
            index = which if index is None else index
    several = any("," in environ.get(name, "") for name in _TPU_HOSTS)
    several |= (_number(environ, "MEGASCALE_NUM_SLICES") or 1) > 1
    detects = values.distributed or several or may_be_on_tpu_pod(environ)
    if coordinator is None and count is None and index is None:
        return (None, None, None) if detects else None
    if coordinator and not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError("--coordinator", f"expected HOST:PORT, got '{coordinator}'")
    for flag, value in (("--num_processes", count), ("--process_id", index)):
        if value is None and not detects:
            problem = "expected both --num_processes=N and --process_id=I; pass both"
            raise ConfigError(flag, problem)
    if count is not None and count < 1:
        raise ConfigError("--num_processes", f"expected 1 or more, got {count}")
    if count is not None and index is not None and not 0 <= index < count:
        raise ConfigError("--process_id", f"expected 0 to {count - 1}, got {index}")
    return coordinator, count, index


def may_be_on_tpu_pod(environ: Mapping[str, str]) -> bool:
    """Return whether this is a Cloud TPU VM that must query its metadata server for other hosts."""
    queries = environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environ
    return queries and not any(name in environ for name in _TPU_HOSTS)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    if text and not text.isdecimal():
        raise ConfigError(name, f"expected a number in the environment, got '{text}'")
    return int(text) if text else None
