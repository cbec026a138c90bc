"""`--print_config`: every setting with its value, origin and description."""

from collections.abc import Iterator

from absl import flags

from vit_jax.config.layers import choices, declarations
from vit_jax.config.resolution import Resolved
from vit_jax.config.schema import Config, as_dict, flatten
from vit_jax.console.progress import say


def define_print_flag(values: flags.FlagValues) -> None:
    """Define the flag `--print_config` of a command."""
    text = (
        "Print every setting with its value, origin (default, preset NAME, init_from DIR, "
        "FILE:LINE or flag) and description, then exit."
    )
    flags.DEFINE_bool("print_config", False, text, flag_values=values)


def print_config(resolved: Resolved) -> None:
    """Print one line per setting, then the notes."""
    for line in format_config(resolved):
        say(line)


def format_config(resolved: Resolved) -> Iterator[str]:
    """Yield `path = value  [origin]  description` for each setting, aligned, then the notes."""
    texts = describe(resolved.config)
    rows = [
        (f"{path} = {value!r}", f"[{resolved.origins[path]}]", texts[path])
        for path, value in flatten(as_dict(resolved.config)).items()
    ]
    first, second = (_width([row[i] for row in rows]) for i in (0, 1))
    for setting, origin, text in rows:
        yield f"{setting:<{first}}  {origin:<{second}}  {text}".rstrip()
    for note in resolved.notes:
        yield f"note: {note}"


def _width(texts: list[str]) -> int:
    """Return a width that fits 95 % of the texts."""
    return sorted(map(len, texts))[int(0.95 * len(texts))]


def describe(config: Config) -> dict[str, str]:
    """Return the description of each setting of a config, by path."""
    values = flatten(as_dict(config))
    name = config.model["name"]
    chosen = {section: values[f"{section}.name"] for section in choices(name)}
    return {path: declared.help for path, declared in declarations(name, chosen).items()}
