"""Label sets: subsets and re-labellings of the classes of a model, by name or from a file."""

from vit_jax.evaluation.label_sets.corruptions import corrupted_sets, summarize_corruptions
from vit_jax.evaluation.label_sets.label_set import LabelSet
from vit_jax.evaluation.label_sets.matching import Match, match
from vit_jax.evaluation.label_sets.published import LABEL_SETS, find_label_set
from vit_jax.evaluation.label_sets.relabelling import apply

__all__ = [
    "LABEL_SETS",
    "LabelSet",
    "Match",
    "apply",
    "corrupted_sets",
    "find_label_set",
    "match",
    "summarize_corruptions",
]
