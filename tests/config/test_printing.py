"""`--print_config` prints every setting with its origin and description, and exits."""

import re

import pytest
from conftest import ROOT, TINY, tiny_flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax import evaluate, train
from vit_jax.config import stored
from vit_jax.console import cli


def run(command, capsys, *argv):
    code = cli.run(command.main, command._flags(), command.__doc__, [command.__name__, *argv])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


@pytest.fixture
def folder(tmp_path, tiny_config):
    config = tiny_config({"data.channels": "3", "data.mean": ".4,.4,.4", "data.std": ".2,.2,.2"})
    stored.write(epath.Path(tmp_path / "source"), config, {})
    return tmp_path / "source"


def rows(out):
    """Returns value, origin and description of each setting, by path."""
    found = re.findall(r"^(\S+) = (.*?) +\[(.*?)\] +(.*)$", out, flags=re.M)
    return {path: rest for path, *rest in found}


def test_a_fine_tuning_run_shows_all_five_origins(folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    path = ROOT / "configs" / "finetune_folder.py"
    out = run(
        train,
        capsys,
        f"--config={path}",
        f"--workdir={workdir}",
        f"--config.init_from={folder}",
        "--config.data.mean=0.5,0.5,0.5",
        "--print_config",
    )
    shown = rows(out)
    config = config_lib.resolve(
        config_lib.load_config_file(str(path)), {"init_from": str(folder)}
    ).config
    assert shown.keys() == config_lib.flatten(config_lib.as_dict(config)).keys()
    assert shown["seed"][:2] == ["0", "default"]
    assert shown["model.dtype"][:2] == ["'float32'", "preset vit_mu4"]
    assert shown["model.width"][:2] == ["16", f"init_from {folder}"]
    assert shown["batch_size"][0] == "64"
    assert re.fullmatch(r".*configs/finetune_folder\.py:\d+", shown["batch_size"][1])
    assert shown["data.mean"][:2] == ["(0.5, 0.5, 0.5)", "flag"]
    assert all(text for _, _, text in shown.values())
    assert "note: config.data.mean is (0.5, 0.5, 0.5) (flag), not (0.4, 0.4, 0.4) (init_from" in out
    assert not workdir.exists()


def test_the_origin_of_a_setting_is_its_line_in_the_file(tmp_path, capsys):
    path = ROOT / "configs" / "digits.py"
    out = run(train, capsys, f"--config={path}", f"--workdir={tmp_path}", "--print_config")
    file, line = rows(out)["optim.weight_decay"][1].rsplit(":", 1)
    assert (ROOT / file) == path
    assert path.read_text().splitlines()[int(line) - 1].strip() == "c.optim.weight_decay = 0.05"


def test_evaluate_prints_the_settings_of_the_run(folder, capsys):
    out = run(
        evaluate, capsys, f"--workdir={folder}", "--config.eval.batch_size=3", "--print_config"
    )
    shown = rows(out)
    assert shown["eval.batch_size"][:2] == ["3", "flag"]
    assert shown["model.width"][:2] == [TINY["model.width"], str(folder / "config.json")]
    assert shown["mesh.fsdp"][:2] == ["1", "default"]


def test_help_lists_the_flag(capsys):
    for command in (train, evaluate):
        assert "--[no]print_config" in run(command, capsys, "--help")


def test_resuming_takes_a_duration_in_another_unit_by_one_name(tmp_path, capsys):
    def train_with(*flags):
        argv = tiny_flags(f"--workdir={tmp_path}", *flags)
        argv = [item for item in argv if "total_steps" not in item or item in flags]
        code = cli.run(train.main, train._flags(), "", ["train", *argv])
        return code, *capsys.readouterr()

    code, _, err = train_with("--config.total_epochs=0.7", "--config.optim.warmup_steps=1")
    assert (code, err) == (0, "")
    longer = ("--config.total_steps=3", "--config.optim.warmup_epochs=0.3")
    code, _, err = train_with(*longer)
    assert code == 64
    assert "config.optim.warmup_epochs: this run was started with 0.0, not 0.3" in err
    allowed = ("--allow_config_change=total", "--allow_config_change=optim.warmup")
    assert all(flag in err for flag in allowed)
    code, out, _ = train_with(*longer, *allowed)
    assert code == 0 and "plan      3 steps" in out and "resume    from" in out


def test_a_resumed_run_keeps_a_flag_that_is_not_given_again(tmp_path, capsys):
    argv = tiny_flags(f"--workdir={tmp_path}", "--config.optim.warmup_steps=1")
    for flags in (("--config.optim.b1=0.8",), ()):
        code = cli.run(train.main, train._flags(), "", ["train", *argv, *flags])
        assert code == 0, capsys.readouterr().err
    assert "finished  this run is complete" in capsys.readouterr().out
