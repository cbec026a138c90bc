"""Exchangeable parts of a model: each is a class with its own fields, checks and cost.

A model holds a `Part`: the class, and the values of its own fields. When the model makes the
module, it adds the fields that depend on the model, such as the number of heads.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
from flax.core import FrozenDict

from vit_jax.settings.choices import Choice, choice, own_fields
from vit_jax.settings.fields import Inherit, field

Constructor = Callable[..., Any]  # makes a module, given the fields that are still missing

# Fields of the architecture, by what applies to a run that starts from pretrained weights: a
# `fixed` field must keep the value of the weights, an `adapted` one may change and the weights are
# adapted, a `free` one may change. Other fields belong to the run.
fixed = functools.partial(field, inherit="fixed")
adapted = functools.partial(field, inherit="adapted")
free = functools.partial(field, inherit="free")

# The path of a field of the model, such as `stem.patch`, and what is wrong with its value.
Problem = tuple[str, str]


@runtime_checkable
class Model(Protocol):
    """The properties of a model that the checks of its parts read."""

    dtype: str

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(width, number of heads) of each stage."""


class Component(nn.Module):
    """Base class of the entries of the tables of parts.

    Fields that are declared with `fixed`, `adapted`, `free` or `field` are settings of the config.
    The model sets all others.

    Attributes:
      cost: Compute time or parameters, as text, for n tokens of width d and h heads.
    """

    cost: ClassVar[str]

    @classmethod
    def check(cls, part: "Part", model: Model) -> Iterator[Problem]:
        """Yield the problems of a part in a model; the range of each field is checked elsewhere."""
        yield from ()


@dataclasses.dataclass(frozen=True)
class Part:
    """A component and the values of its own fields."""

    module: type[Any]  # a subclass of `Component`
    fields: FrozenDict[str, Any] = dataclasses.field(default_factory=FrozenDict)

    def __call__(self, **context: Any) -> Any:
        """Make the module; `context` holds the fields that the model sets."""
        return self.module(**self.fields, **context)

    def __getitem__(self, key: str) -> Any:
        """Return the value of a field."""
        if key in self.fields:
            return self.fields[key]
        return own_fields(self.module)[key].field.default


def name_of(chosen: Part, table: Mapping[str, type[Component]]) -> str:
    """Return the name of a part in a table, or the name of its class if the table lacks it."""
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
    """Declare a field of a model that holds a part.

    Args:
      table: Components by name.
      name: Name of the default component.
      help: Description of the field.
      inherit: How a run that starts from pretrained weights treats the name; see `Inherit`.
      fields: Defaults that replace those of the component.
    """

    def make(chosen: Choice) -> Part:
        return Part(chosen.table[chosen.name], FrozenDict(chosen.fields))

    return choice(table, name, help, make=make, inherit=inherit, fields=fields)
