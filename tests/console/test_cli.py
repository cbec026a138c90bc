"""Flags, overrides, error lines and exit codes of commands."""

import functools

import pytest
from absl import flags

from vit_jax import config as config_lib
from vit_jax.console import cli
from vit_jax.errors import ConfigError, DataError


def new_flags():
    values = cli.new_flags()
    flags.DEFINE_integer("number", 0, "A number.", flag_values=values)
    return values


def run(capsys, *argv, main=lambda values, overrides: None):
    code = cli.run(main, new_flags(), "Does a thing.", ["prog", *argv])
    return code, *capsys.readouterr()


def test_overrides_are_parsed_with_equals_or_space(capsys):
    seen = {}
    argv = ("--config.a.b=1", "--number=3", "--config.c", "x=y", "-config.d=")
    code, _, err = run(capsys, *argv, main=lambda _, overrides: seen.update(overrides))
    assert (code, err) == (0, "")
    assert seen == {"a.b": "1", "c": "x=y", "d": ""}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--numbr=3"], "error: --numbr: no such flag; did you mean '--number'?"),
        (["--number=x"], "error: flag --number=x: "),
        (["--data.root=x"], "error: --data.root: no such flag; did you mean '--config.data.root'?"),
        (["stray"], "error: stray: expected flags, --NAME=VALUE"),
        (["x.py:s"], "error: x.py:s: expected flags, --NAME=VALUE, such as --config=x.py:s"),
        (["--config.a"], "error: config.a: expected a value, as in --config.key=value"),
    ],
)
def test_an_invalid_flag_is_one_line_and_exit_code_64(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert code == 64
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_an_error_is_one_line_with_its_code_and_debug_adds_the_traceback(capsys):
    def fail(values, overrides):
        raise DataError("train[3]:\n  bad label")

    code, _, err = run(capsys, main=fail)
    assert (code, err) == (65, "error: train[3]: bad label\n")
    code, _, err = run(capsys, "--debug", main=fail)
    assert code == 65
    assert "Traceback" in err
    assert err.endswith("error: train[3]: bad label\n")


def test_help_fits_a_screen(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert out.startswith("Does a thing.")
    assert "--number" in out
    assert len(out.splitlines()) < 25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n  return 1 +\n", "c.py:2: SyntaxError"),
        ("x = 1\n", "expected a function get_config()"),
        ("raise SystemExit(0)\n", "c.py:1: SystemExit: 0"),
        ("\0", "c.py"),
        ("def get_config():\n  x = 1\n  return y\n", "c.py:3: NameError"),
        ("def get_config():\n  return 3\n", "expected get_config() to return a ConfigDict"),
        (
            "from vit_jax import config\n\ndef get_config():\n"
            "  c = config.to_config_dict(config.Config())\n  c.optm.name = 'sgd'\n",
            "c.py:5: AttributeError",
        ),
        (
            "from vit_jax import models\n\ndef get_config():\n  models.spec('vit_s61x')\n",
            "config.model.name: unknown 'vit_s61x'; did you mean 'vit_s16'?",
        ),
    ],
)
def test_an_error_in_a_config_file_has_its_name_and_line(tmp_path, text, message):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config_lib.load_config_file(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize("path", ["", "nowhere.py", "."])
def test_a_missing_config_file_is_an_error(path):
    with pytest.raises(ConfigError, match="--config"):
        config_lib.load_config_file(path)


def test_operands_may_be_between_flags_and_after_two_dashes(capsys):
    def parse(*argv):
        values, seen = new_flags(), []
        values.set_gnu_getopt(True)
        code = cli.run(
            lambda _, rest: seen.extend(rest), values, "", ["prog", *argv], cli.parse_operands
        )
        return code, seen, capsys.readouterr().err

    assert parse("a.jpg", "--number=3", "b/", "--", "--c.png") == (
        0,
        ["a.jpg", "b/", "--c.png"],
        "",
    )
    code, _, err = parse("a.jpg", "--numbr=3")
    assert (code, err) == (64, "error: --numbr: no such flag; did you mean '--number'?\n")


def test_operands_may_be_among_overrides():
    values = new_flags()
    parse = functools.partial(cli.parse_operands_and_overrides, values=values)
    rest = ["a.jpg", "--config.data.root=x", "b", "--config.seed=2", "--", "--config.c=d"]
    expected = (["a.jpg", "b", "--config.c=d"], {"data.root": "x", "seed": "2"})
    assert parse(rest) == expected
    assert parse([]) == ([], {})
    with pytest.raises(ConfigError, match=r"config\.seed: expected a value"):
        parse(["--config.seed", "2"])
    with pytest.raises(ConfigError, match=r"--nmber: no such flag; did you mean '--number'\?"):
        parse(["--nmber"])
