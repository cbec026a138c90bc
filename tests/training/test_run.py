"""A run is opened from its config, and what does not fit is refused before anything is computed."""

import pytest

from vit_jax.errors import ConfigError
from vit_jax.training.run import open_run


@pytest.mark.parametrize("asked", [0, 7])
def test_the_model_has_the_classes_of_the_data(tiny_config, asked):
    overrides = {"model.num_classes": str(asked), "data.synthetic.num_classes": "7"}
    run = open_run(tiny_config(overrides))
    assert run.config.model["num_classes"] == 7
    assert run.shapes.params["head"]["bias"].shape == (7,)


def test_other_classes_than_those_of_the_data_are_refused(tiny_config):
    message = (
        r"config\.model\.num_classes: the data set synthetic:train has 10 classes, got 7; 0 infers"
    )
    with pytest.raises(ConfigError, match=message):
        open_run(tiny_config({"model.num_classes": "7"}))


def test_the_lines_name_data_model_and_plan(tiny_config):
    lines = "\n".join(open_run(tiny_config()).describe())
    for part in ("synthetic  train 64  test 21  10 classes", "vit_mu4", "8x8 pixels", "4 steps"):
        assert part in lines


def test_a_training_says_how_long_it_is(tiny_config):
    with pytest.raises(
        ConfigError, match=r"config\.total_steps: the run has no duration; set one of total_steps"
    ):
        open_run(tiny_config({"total_steps": "0"}))


def test_what_trains_is_said_where_it_is_not_all(tiny_config):
    lines = open_run(tiny_config({"optim.tune": "head"})).describe()
    assert "training  170 of the parameters; the rest is frozen" in lines
    assert not any("frozen" in line for line in open_run(tiny_config()).describe())


@pytest.mark.parametrize("name", ["auto", "fused"])
def test_the_kernel_of_the_attention_is_said_with_its_reason(name, tiny_config):
    lines = open_run(tiny_config({"model.attention": name})).describe()
    assert f"attention {name}: full (no fused kernel for cpu)" in lines
    lines = open_run(tiny_config({"model.attention": "linear"})).describe()
    assert not any("attention" in line for line in lines)
