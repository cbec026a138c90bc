"""Presets: the fields that the name of a model sets, by family."""
