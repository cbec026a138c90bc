"""The plan of a tiny run on this machine: its report, its process, and what it leaves behind."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from etils import epath

from vit_jax import plan
from vit_jax.config import stored
from vit_jax.console import cli
from vit_jax.errors import CompileError, ConfigError
from vit_jax.planning import compiling
from vit_jax.planning.compiling import compile_step
from vit_jax.planning.lowering import lower
from vit_jax.planning.report import Report
from vit_jax.training.flops import Flops
from vit_jax.training.run import open_run

CONFIG = str(ROOT / "configs" / "synthetic.py")
REPORT = Report(
    topology="h100:2x8",
    device_kind="NVIDIA H100 80GB HBM3",
    num_devices=16,
    num_hosts=2,
    step="train",
    batch_size=1024,
    parameters=86_000_000,
    flops=Flops(35_000_000_000, 105_000_000_000, 30_000_000_000),
    state_bytes=2**30,
    peak_bytes=60 * 2**30,
    limit_bytes=63_699_733_708,
    limit="75% of 79.10 GiB",
    bytes_accessed=10**11,
    collectives={
        "all-reduce": {"f32": 2**21, "bf16": 2**22},
        "all-gather": {"u8": 2**10},
    },
    instructions=654,
    compute_seconds=0.0087,
    memory_seconds=0.03,
    attention="auto: cudnn",
    compile_seconds=12.3,
    notes=("a note",),
)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def children(folder):
    """Returns the ids of the processes that compile with this folder of temporary files."""
    found = []
    for path in epath.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environ = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if compiling.CHILD.encode() in words and f"TMPDIR={folder}".encode() in environ:
            found.append(int(path.name))
    return found


def test_the_report_of_a_step_is_that_of_the_whole_compilation(tiny_config, temporary, monkeypatch):
    """Parameters, state and peak memory are those of the same step, compiled here to its end."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    config = tiny_config({"mesh.fsdp": "2"})
    report = compile_step(config)
    run = open_run(config)
    memory = lower(run, "train").compile().memory_analysis()
    assert report.num_devices == len(run.mesh.devices.flatten()) == 8
    assert (report.num_hosts, report.batch_size) == (1, 16)
    assert report.parameters == run.num_parameters
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    needed += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    assert 0 <= report.peak_bytes - needed < 4096  # constants, which only the report counts
    assert report.state_bytes < report.peak_bytes < report.limit_bytes
    assert report.fits
    assert report.bytes_accessed > report.peak_bytes
    assert set(report.collectives) >= {"all-gather", "all-reduce"}
    assert report.attention.startswith("auto: full")
    assert not list(temporary.iterdir()) and not children(temporary)


def test_the_command_prints_json_and_nothing_else_on_stdout(monkeypatch, capsys):
    asked = []

    def compile_step(config, topology, step, **kwargs):
        asked.append((config.batch_size, topology, step, kwargs["num_images"], kwargs["aside"]))
        return REPORT

    monkeypatch.setattr(plan, "compile_step", compile_step)
    given = ["--topology=v5e:4x4", "--step=eval", "--num_images=9", "--config.batch_size=48"]
    argv = ["plan", f"--config={CONFIG}", *given, "--json"]
    assert cli.run(plan.main, plan._flags(), plan.__doc__, argv) == 0
    assert asked == [(48, "v5e:4x4", "eval", 9, True)]
    report = json.loads(capsys.readouterr().out)
    assert report["fits"] is False
    assert report["flops"] == {"forward": 35e9, "training": 105e9, "recomputed": 30e9}
    assert report["collectives"]["all-reduce"] == {"f32": 2**21, "bf16": 2**22}


def test_the_lines_of_a_report(monkeypatch, capsys):
    monkeypatch.setattr(plan, "compile_step", lambda *_, **__: REPORT)
    assert cli.run(plan.main, plan._flags(), plan.__doc__, ["plan", f"--config={CONFIG}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "devices   h100:2x8  16 x NVIDIA H100 80GB HBM3  2 hosts",
        "step      train  1,024 images  compiled in 12.3 s",
        "model     86,000,000 parameters  GFLOPs an image: 35.0 forward, 105.0 + 30.0 recomputed "
        "training",
        "attention auto: cudnn",
        "state     1.00 GiB on each device",
        "peak      60.00 GiB of 59.32 GiB: does not fit  (75% of 79.10 GiB)",
        "traffic   93.13 GiB of memory on each device, an estimate  654 instructions",
        "sent      all-reduce 2.0 MiB float32, 4.0 MiB bfloat16; all-gather 1.0 KiB uint8",
        "floor     8.7 ms by FLOPs, 30.0 ms by bandwidth: memory-bound  about 34,133 images/s",
        "note      a note",
    ]


def test_an_error_of_the_run_is_that_of_a_training(tiny_config):
    config = tiny_config({"model.num_classes": "7"})
    with pytest.raises(ConfigError) as planned:
        compile_step(config)
    with pytest.raises(ConfigError) as trained:
        open_run(config)
    assert str(planned.value) == str(trained.value)


def test_the_evaluation_step_is_lowered_from_shapes(tiny_config):
    config = tiny_config({"optim.param_dtype": "bfloat16", "eval.batch_size": "20"})
    run = open_run(config)
    lowered = lower(run, "eval")
    assert {leaf.dtype for leaf in jax.tree.leaves(lowered.in_avals[0][0])} == {
        jnp.dtype("float32")
    }
    assert lowered.in_avals[0][2]["image"].shape == (24, 8, 8, 1)  # a multiple of 8 devices


def test_the_last_error_of_a_child_that_dies_is_reported(tiny_config, temporary, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(CompileError, match=r"--topology=here: .*xla_no_such_flag"):
        compile_step(tiny_config())
    assert not list(temporary.iterdir()) and not children(temporary)


def test_ctrl_c_leaves_no_process_and_no_folder(tiny_config, temporary, monkeypatch):
    started = []

    def interrupt(_):
        started.extend(children(temporary))
        if started:  # a process that has just begun may not be listed yet
            raise KeyboardInterrupt

    monkeypatch.setattr(compiling.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_step(tiny_config())
    assert len(started) == 1
    assert not list(temporary.iterdir()) and not children(temporary)


def test_the_process_that_compiles_ends_with_its_parent_and_removes_the_folder(
    tiny_config, tmp_path
):
    folder = tmp_path / "dump"
    stored.write(epath.Path(folder), tiny_config(), {})
    request = {"folder": str(folder), "topology": "here", "step": "train"}
    done = subprocess.run(
        [sys.executable, "-m", compiling.CHILD],
        input=json.dumps({**request, "num_images": 0, "imports": ""}) + "\n",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert done.returncode == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    ("code", "log", "problem"),
    [
        (1, "a\njax.errors.JaxRuntimeError: INTERNAL: no\nb\n", "JaxRuntimeError: INTERNAL: no"),
        (1, "ValueError: first\nTypeError: last\n", "TypeError: last"),
        (-6, "F0000 Check failed: x\n", "F0000 Check failed: x"),
        (-9, "an innocent line\n", "was killed; is the memory of this machine too small"),
        (1, "JaxRuntimeError: RESOURCE_EXHAUSTED: vmem\n", "RESOURCE_EXHAUSTED: vmem"),  # no dump
        (3, "", "died without a word"),
    ],
)
def test_why_a_process_died(code, log, problem, tmp_path):
    (tmp_path / compiling.LOG).write_text(log)
    with pytest.raises(CompileError, match=f"^--topology=v5e:2x2: .*{problem}"):
        compiling._read_refusal({"topology": "v5e:2x2"}, tmp_path, code)


@pytest.mark.parametrize(
    ("topology", "problem", "flags"),
    [
        ("h100:1", "INTERNAL: Couldn't find output tile sizes", ["", compiling.NO_TRITON]),
        ("h100:1", "INTERNAL: something else", [""]),
        ("here", "INTERNAL: Couldn't find output tile sizes", [""]),
    ],
)
def test_triton_is_left_out_only_where_it_finds_no_tiles(
    topology, problem, flags, tiny_config, monkeypatch
):
    tried = []

    def compile_(config, topology, request, more_flags, *notes):
        tried.append(more_flags)
        if not more_flags:
            raise CompileError(problem)
        return dataclasses.replace(REPORT, notes=notes)

    monkeypatch.setattr(compiling, "_compile", compile_)
    monkeypatch.setattr(compiling.topologies, "check_compiler", lambda _: None)
    if len(flags) == 1:
        with pytest.raises(CompileError, match=problem):
            compile_step(tiny_config(), topology)
    else:
        (note,) = compile_step(tiny_config(), topology).notes
        assert compiling.NO_TRITON in note and problem in note
    assert tried == flags


def test_users_flags_of_xla_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    topology = compiling.topologies.parse("h100:1")
    environ = compiling._environment(topology, "eval", tmp_path, compiling.NO_TRITON)
    flags = environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_cpu_enable_fast_math=false"
    assert "--xla_dump_hlo_module_re=jit_eval_step" in flags
    assert {compiling.NO_AUTOTUNING, compiling.NO_TRITON} <= set(flags)
    assert environ["JAX_PLATFORMS"] == "cpu"


def test_an_unfinished_dump_is_not_read(tmp_path):
    memory = tmp_path / "module_0001.jit_train_step.cpu_after_optimizations-memory-usage-report.txt"
    program = tmp_path / "module_0001.jit_train_step.cpu_after_optimizations.txt"
    text = "HloModule m\n\nENTRY %main () -> f32[] {\n  ROOT %a = f32[] constant(1)\n}\n\n"
    report = "Memory Space: default (color=0)\nTotal bytes: 1234 (1.2KiB)\n  cumulative\n"
    for size in range(0, len(report), 7):
        memory.write_text(report[:size])
        program.write_text(text)
        found = compiling._read_dump(tmp_path, "here")
        assert found is None or found.peak_bytes == 1234
    for size in range(0, len(text) - 2, 7):
        program.write_text(text[:size])
        assert compiling._read_dump(tmp_path, "here") is None
    program.write_text(text)
    assert compiling._read_dump(tmp_path, "here") == (text, 1234)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5e:1x1", "v4:2x2x2", "h100:1", "h100:2x8"])
@pytest.mark.parametrize("step", ["train", "eval"])
def test_the_compilers_of_devices_that_are_not_here(topology, step, tiny_config):
    """Needs the extras plan-tpu and plan-gpu."""
    config = tiny_config({"model.dtype": "bfloat16"})
    report = compile_step(config, topology, step)
    assert report.fits and report.limit_bytes > 2**33
    assert report.num_devices in (1, 4, 8, 16)
    assert report.compute_seconds > 0 and report.memory_seconds > 0


@pytest.mark.slow
def test_a_step_that_the_compiler_of_tpus_refuses_does_not_fit(tiny_config):
    big = {"batch_size": str(2**22), "data.synthetic.train_examples": str(2**22)}
    report = compile_step(tiny_config({**big, "model.dtype": "bfloat16"}), "v5e:1x1")
    assert "RESOURCE_EXHAUSTED" in report.refused
    assert not report.fits and report.peak_bytes > report.limit_bytes
