"""The weights that a run starts from (`config.init_from`), and what they bring along."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import models
from vit_jax.config.layers import Layer, from_values, was_set
from vit_jax.config.schema import Config, Data, as_dict, flatten
from vit_jax.errors import ConfigError
from vit_jax.settings.fields import Inherit


@dataclasses.dataclass(frozen=True)
class Donor:
    """A run folder, or converted weights: the config that its weights were trained with."""

    directory: str
    config: Config

    @property
    def origin(self) -> str:
        """How a value from here is marked."""
        return f"donor {self.directory}"

    @property
    def inherited(self) -> dict[str, Inherit]:
        """What becomes of each field that comes along, by path."""
        parts = {key: self.config.model[key]["name"] for key in models.part_choices(self._name)}
        declared = models.declarations(self._name, parts)
        fields = {f"model.{path}": setting.inherit for path, setting in declared.items()}
        for field in dataclasses.fields(Data):
            fields[f"data.{field.name}"] = field.metadata.get("inherit", "never")
        return {path: how for path, how in fields.items() if how != "never"}

    @property
    def layer(self) -> Layer:
        """The layer of what comes along."""
        paths = {"model.name", *self.inherited}
        layer = from_values(as_dict(self.config), self.origin)
        return {path: setting for path, setting in layer.items() if path in paths}

    def check(
        self, config: Config, origins: Mapping[str, str], named_by: str, *, adapts: bool
    ) -> dict[str, Any]:
        """Check that a config does not contradict the weights.

        Args:
          config: The merged config.
          origins: Who set its values.
          named_by: Who named its model.
          adapts: Whether the weights are adapted, not used as they are.

        Returns:
          Fields of the model that follow from the weights.

        Raises:
          ConfigError: A field is set to what the weights were not trained with; with both origins.
        """
        name = config.model["name"]
        refused = ("fixed",) if adapts else ("fixed", "adapted")
        for path, value, theirs in self._differences(config):
            if self.inherited[path] not in refused:
                continue
            if origins[path].startswith("preset "):
                key = path.removeprefix("model.")
                problem = f"{name} ({named_by}) has {key} {value}"
                known = f"{self.directory} holds a {self._name} with {key} {theirs}"
                raise ConfigError("config.model.name", f"{problem}, but {known}")
            problem = f"{value} ({origins[path]}), but the weights were trained with {theirs}"
            raise ConfigError(f"config.{path}", f"{problem} ({self.origin})")
        donor = models.create(**self.config.model)
        model = models.create(**config.model)
        derived = donor.fields_from_weights(model, self.config.data.image_size)
        return {k: v for k, v in derived.items() if not was_set(origins[f"model.{k}"])}

    def fit_channels(self, config: Config, origins: Mapping[str, str]) -> dict[str, Any]:
        """Return the normalization for another number of channels, where the weights bring it.

        One channel has the mean of theirs. More repeat theirs, as the kernels do.
        """
        have, want = self.config.data.channels, config.data.channels
        if have == want:
            return {}
        found = {}
        for key in ("mean", "std"):
            values = getattr(self.config.data, key)
            if origins[f"data.{key}"] == self.origin:
                repeated = tuple(values[i % have] for i in range(want))
                found[key] = (sum(values) / have,) if want == 1 else repeated
        return found

    def describe_overrides(self, config: Config, origins: Mapping[str, str]) -> Iterator[str]:
        """Yield a line for each value that the run does not take from the weights."""
        for path, value, theirs in self._differences(config):
            if origins[path] != self.origin or path in ("data.mean", "data.std"):
                yield f"config.{path} is {value} ({origins[path]}), not {theirs} ({self.origin})"

    @property
    def _name(self) -> str:
        return self.config.model["name"]

    def _differences(self, config: Config) -> Iterator[tuple[str, Any, Any]]:
        """Yield path, value and the weights' value of each field that differs."""
        values, theirs = flatten(as_dict(config)), flatten(as_dict(self.config))
        for path in sorted(self.inherited.keys() & values.keys()):
            if values[path] != theirs[path]:
                yield path, values[path], theirs[path]
