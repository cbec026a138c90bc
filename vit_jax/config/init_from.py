"""The source model of a run (`config.init_from`): its settings, and which of them the run keeps."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import models
from vit_jax.config.layers import Layer, from_values, was_set
from vit_jax.config.schema import Config, Data, as_dict, flatten
from vit_jax.errors import ConfigError
from vit_jax.settings.fields import Inherit


@dataclasses.dataclass(frozen=True)
class SourceModel:
    """The settings that pretrained weights were trained with.

    Attributes:
      directory: The run folder, or the folder of converted weights.
      config: The config that the weights were trained with.
      origin: The origin of a value that is inherited, such as `init_from runs/digits`.
    """

    directory: str
    config: Config
    origin: str

    @property
    def inherited(self) -> dict[str, Inherit]:
        """How each inherited field is treated, by path."""
        parts = {key: self.config.model[key]["name"] for key in models.part_choices(self._name)}
        declared = models.declarations(self._name, parts)
        fields = {f"model.{path}": setting.inherit for path, setting in declared.items()}
        for field in dataclasses.fields(Data):
            fields[f"data.{field.name}"] = field.metadata.get("inherit", "never")
        return {path: how for path, how in fields.items() if how != "never"}

    @property
    def layer(self) -> Layer:
        """The layer of the inherited values."""
        paths = {"model.name", *self.inherited}
        layer = from_values(as_dict(self.config), self.origin)
        return {path: setting for path, setting in layer.items() if path in paths}

    def check(
        self, config: Config, origins: Mapping[str, str], named_by: str, *, adapts: bool
    ) -> dict[str, Any]:
        """Check that a config does not contradict the weights.

        Args:
          config: The merged config.
          origins: The origin of each value, by path.
          named_by: The origin of the model's name.
          adapts: Whether the weights may be adapted to another patch or number of channels.

        Returns:
          Model fields that follow from the weights.

        Raises:
          ConfigError: A field differs from the value that the weights were trained with; the
            message names both origins.
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
        source = models.create(**self.config.model)
        model = models.create(**config.model)
        derived = source.fields_from_weights(model, self.config.data.image_size)
        return {k: v for k, v in derived.items() if not was_set(origins[f"model.{k}"])}

    def fit_channels(self, config: Config, origins: Mapping[str, str]) -> dict[str, Any]:
        """Return mean and standard deviation for another number of channels, if inherited.

        A single channel gets the mean over the channels of the source model. Further channels
        repeat those of the source model, as the kernels of the patch embedding do.
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
        """Yield path, value and the source model's value of each field that differs."""
        values, theirs = flatten(as_dict(config)), flatten(as_dict(self.config))
        for path in sorted(self.inherited.keys() & values.keys()):
            if values[path] != theirs[path]:
                yield path, values[path], theirs[path]
