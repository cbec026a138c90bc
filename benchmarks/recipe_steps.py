"""Recipes by the step that they compile: those that differ in nothing but numbers share one."""

import pathlib
import re
import runpy
from collections.abc import Iterator

from vit_jax import config as config_lib
from vit_jax.planning.declared import declare

ROOT = pathlib.Path(__file__).parents[1]

# In the order of the table.
FILES = (
    "deit.py",
    "deit3.py",
    "augreg.py",
    "plain_vit.py",
    "swin.py",
    "augreg_finetune.py",
    "hybrid.py",
    "vit_finetune.py",
    "transfer.py",
    "cifar10.py",
    "fashion_mnist.py",
    "digits.py",
    "finetune_folder.py",
    "folder.py",
    "synthetic.py",
)
# What a recipe needs besides its name: a model, a teacher, the classes and images of a folder.
FOLDER = {"model.num_classes": "100", "data.root": "PHOTOS"}
NEEDS = {
    "digits.py:transfer": {"model.name": "vit_mu4", "data.image_size": "28,28"},
    "finetune_folder.py": {"model.name": "vit_b16", "data.image_size": "224,224", **FOLDER},
    "folder.py": FOLDER,
}
NUM_IMAGES = 10_000  # of a folder
# Settings that change no shape: numbers in a program, and what the host does.
NUMBERS = re.compile(
    r"total_.*|seed|max_skipped|init_from|(eval|checkpoint|log)\..*|model\.(name|num_classes)"
    r"|data\.(\w+_split|name|root|crop.*|fit|interpolation|flip|augment|color_jitter|repeats)"
    r"|data\.(affine\..*|threads|mean|std)"
    r"|optim\.(learning_rate|schedule|warmup_.*|end_learning_rate|cooldown_.*)"
)
# Settings of which only matters whether they are 0.
SWITCHES = re.compile(
    r"model\.block\.drop_path|mix\..*|optim\.(weight_decay|clip_norm|ema_decay)|data\.erasing"
    r"|objective\.label_smoothing"
)


def find_recipes() -> Iterator[str]:
    """Yield FILE.py or FILE.py:ARGUMENT of every recipe."""
    for name in FILES:
        path = ROOT / "configs" / name
        tables = re.findall(r"pick\((\w+), ", path.read_text())
        scope = runpy.run_path(str(path)) if tables else {}
        yield from [f"{name}:{key}" for table in tables for key in scope[table]] or [name]


def flags_of(recipe: str) -> dict[str, str]:
    """Return the flags without which a recipe has no model, no teacher or no classes."""
    return NEEDS.get(recipe, NEEDS.get(recipe.partition(":")[0], {}))


def open_recipe(recipe: str, teacher: str) -> config_lib.Config:
    """Return the config of a recipe.

    Args:
      recipe: The recipe.
      teacher: The run folder of a teacher with the classes of ImageNet, for distillation.
    """
    tree = config_lib.load_config_file(f"{ROOT}/configs/{recipe}")
    flags = flags_of(recipe)
    if tree.objective.name == "distillation":
        flags = {**flags, "objective.teacher": teacher}
    return config_lib.resolve(tree, flags).config


def step_of(config: config_lib.Config) -> str:
    """Return a text that is equal for configs whose steps have the same shapes, but for classes."""
    values = config_lib.flatten(config_lib.as_dict(config))
    kept = {key: value for key, value in values.items() if not NUMBERS.fullmatch(key)}
    return str({k: bool(v) if SWITCHES.fullmatch(k) else v for k, v in kept.items()})


def find_steps(teacher: str) -> dict[str, list[str]]:
    """Return the recipes of each step, by the one that has the most classes."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for recipe in find_recipes():
        config = open_recipe(recipe, teacher)
        train = declare(config, NUM_IMAGES if config.data.root else 0).sources["train"]
        groups.setdefault(step_of(config), []).append((len(train.class_names), recipe))
    return {max(g, key=lambda item: item[0])[1]: [name for _, name in g] for g in groups.values()}


def make_teacher() -> config_lib.Config:
    """Return the config of the teacher of distilled recipes: DeiT-B, as in the recipe."""
    tree = config_lib.load_config_file(f"{ROOT}/configs/deit.py:b")
    return config_lib.resolve(tree, {"model.num_classes": "1000"}).config
