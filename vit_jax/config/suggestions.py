"""The field that somebody meant, found anywhere in the tree."""

import difflib
from collections.abc import Collection

MOST = 4  # suggestions


def suggest_path(path: str, known: Collection[str]) -> str:
    """Return the nearest paths of fields to an unknown one.

    A name may stand in another section (`learning_rate`), be abbreviated by its initials
    (`optim.lr`), lack a word (`epochs`), or be misspelt.

    Args:
      path: Without `config.`, such as `optim.lr`.
      known: Paths of all fields.
    """
    section, _, key = path.rpartition(".")
    near = _same_name(key, known) or _shortened(key, known) or _misspelt(path, known)
    here = [other for other in near if other.rpartition(".")[0] == section]
    if near:
        names = " or ".join(f"'{other}'" for other in (here or near)[:MOST])
        return f"did you mean {names}?"
    choices = sorted(other for other in known if other.rpartition(".")[0] == section)
    if not section or not choices:
        choices = sorted(other for other in known if "." not in other)
        choices += sorted({f"{other.partition('.')[0]}.KEY" for other in known if "." in other})
    return f"choose from {', '.join(choices)}"


def _same_name(key: str, known: Collection[str]) -> list[str]:
    return sorted(path for path in known if path.rpartition(".")[2] == key)


def _misspelt(path: str, known: Collection[str]) -> list[str]:
    """Return fields with a similar name: of the same section first, then of any."""
    section, _, key = path.rpartition(".")
    siblings = {
        other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section
    }
    if names := difflib.get_close_matches(key, siblings, n=1, cutoff=0.6):
        return [siblings[names[0]]]
    if paths := difflib.get_close_matches(path, list(known), n=1, cutoff=0.8):
        return paths
    keys = {other.rpartition(".")[2] for other in known}
    names = difflib.get_close_matches(key, sorted(keys), n=1, cutoff=0.75)
    return _same_name(names[0], known) if names else []


def _shortened(key: str, known: Collection[str]) -> list[str]:
    """Return fields whose words have these initials, or are these words and others."""
    words = {path: path.rpartition(".")[2].split("_") for path in known}
    initials = sorted(path for path, parts in words.items() if "".join(p[0] for p in parts) == key)
    longer = [path for path, parts in words.items() if set(key.split("_")) < set(parts)]
    begins = {path for path in longer if path.rpartition(".")[2].startswith(f"{key}_")}
    return initials or sorted(begins or longer)
