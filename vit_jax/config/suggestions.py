"""Suggestions for an unknown field: similar names anywhere in the config."""

import difflib
from collections.abc import Collection

MAX_SUGGESTIONS = 4


def suggest_path(path: str, field_paths: Collection[str]) -> str:
    """Return the end of an error: similar fields, or else the fields of the section.

    The name may lack its section (`learning_rate`), be an abbreviation (`optim.lr`), lack a word
    (`epochs`) or be misspelt.

    Args:
      path: The unknown path without `config.`, such as `optim.lr`.
      field_paths: Paths of all fields.
    """
    section, _, key = path.rpartition(".")
    near = (
        _same_name(key, field_paths)
        or _abbreviated(key, field_paths)
        or _misspelt(path, field_paths)
    )
    here = [other for other in near if other.rpartition(".")[0] == section]
    if near:
        names = " or ".join(f"'{other}'" for other in (here or near)[:MAX_SUGGESTIONS])
        return f"did you mean {names}?"
    choices = sorted(other for other in field_paths if other.rpartition(".")[0] == section)
    if not section or not choices:
        choices = sorted(other for other in field_paths if "." not in other)
        choices += sorted(
            {f"{other.partition('.')[0]}.KEY" for other in field_paths if "." in other}
        )
    return f"choose from {', '.join(choices)}"


def _same_name(key: str, field_paths: Collection[str]) -> list[str]:
    return sorted(path for path in field_paths if path.rpartition(".")[2] == key)


def _misspelt(path: str, field_paths: Collection[str]) -> list[str]:
    """Return fields with a similar name, in the same section if possible."""
    section, _, key = path.rpartition(".")
    siblings = {
        other.rpartition(".")[2]: other
        for other in field_paths
        if other.rpartition(".")[0] == section
    }
    if names := difflib.get_close_matches(key, siblings, n=1, cutoff=0.6):
        return [siblings[names[0]]]
    if paths := difflib.get_close_matches(path, list(field_paths), n=1, cutoff=0.8):
        return paths
    keys = {other.rpartition(".")[2] for other in field_paths}
    names = difflib.get_close_matches(key, sorted(keys), n=1, cutoff=0.75)
    return _same_name(names[0], field_paths) if names else []


def _abbreviated(key: str, field_paths: Collection[str]) -> list[str]:
    """Return fields whose initials are the key, or whose words include those of the key."""
    words = {path: path.rpartition(".")[2].split("_") for path in field_paths}
    initials = sorted(path for path, parts in words.items() if "".join(p[0] for p in parts) == key)
    longer = [path for path, parts in words.items() if set(key.split("_")) < set(parts)]
    begins = {path for path in longer if path.rpartition(".")[2].startswith(f"{key}_")}
    return initials or sorted(begins or longer)
