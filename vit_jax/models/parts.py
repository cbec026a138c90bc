"""Exchangeable parts of a model: each is a class that owns its fields, its checks and its cost.

A model holds a `Part`: the class with values for its own fields. Where the module is made, the
model adds what the part has to know about the model, such as the number of heads.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
from flax.core import FrozenDict

from vit_jax.settings.choices import Choice, choice, own_fields
from vit_jax.settings.fields import Inherit, field

Constructor = Callable[..., Any]  # of a module

# Fields of the architecture: weights need a `fixed` one as it was trained, are adapted to another
# value of an `adapted` one, and leave a `free` one open. All other fields belong to the run.
fixed = functools.partial(field, inherit="fixed")
adapted = functools.partial(field, inherit="adapted")
free = functools.partial(field, inherit="free")

# The path of a field of the model, such as `stem.patch`, and what is wrong with it.
Problem = tuple[str, str]


@runtime_checkable
class Model(Protocol):
    """What a part may ask about the model that it is in."""

    dtype: str

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Width and number of heads of each stage."""


class Component(nn.Module):
    """A module that a table offers by name.

    Its fields that are declared by `fixed`, `free` or `field` are settings; the model sets the
    others.

    Attributes:
      cost: What it costs for n tokens of width d and h heads, as text.
    """

    cost: ClassVar[str]

    @classmethod
    def check(cls, part: "Part", model: Model) -> Iterator[Problem]:
        """Yield what is wrong with the part in a model; every field by itself is in its range."""
        yield from ()


@dataclasses.dataclass(frozen=True)
class Part:
    """A constructor of a component: its class, and values of its own fields."""

    module: type[Any]  # a component
    fields: FrozenDict[str, Any] = dataclasses.field(default_factory=FrozenDict)

    def __call__(self, **context: Any) -> Any:
        """Make the module, given what the model knows."""
        return self.module(**self.fields, **context)

    def __getitem__(self, key: str) -> Any:
        """Return the value of a field."""
        if key in self.fields:
            return self.fields[key]
        return own_fields(self.module)[key].field.default


def name_of(chosen: Part, table: Mapping[str, type[Component]]) -> str:
    """Return the name of a part, or of its class where no table has it."""
    names = (name for name, module in table.items() if module is chosen.module)
    return next(names, chosen.module.__name__)


def part(
    table: Mapping[str, type[Component]],
    name: str,
    help: str,
    *,
    inherit: Inherit = "fixed",
    fields: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a part of a model.

    Args:
      table: Components by name.
      name: The one where nobody chooses.
      help: What is chosen.
      inherit: What a run that starts from other weights does with the name.
      fields: Values of fields where they are not those of the component.
    """

    def make(chosen: Choice) -> Part:
        return Part(chosen.table[chosen.name], FrozenDict(chosen.fields))

    return choice(table, name, help, make=make, inherit=inherit, fields=fields)
