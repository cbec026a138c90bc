"""Classification with few training images of each class, drawn several times."""

import numpy as np
from jaxtyping import Int

from vit_jax.evaluation.probes.ridge_regression import fit_ridge
from vit_jax.evaluation.probes.task import Result, Task

# That of big_vision's few-shot evaluation (its `configs/common_fewshot.py`); it is not chosen, as
# this would take more images.
PENALTY = 1024.0


def draw(labels: Int[np.ndarray, " n"], shots: int, seed: int) -> Int[np.ndarray, " m"]:
    """Return the indices of random images of each class; with more shots, those of fewer stay.

    Args:
      labels: The classes of all images.
      shots: Number of images of each class; a class with fewer gives all of them.
      seed: Seed of the order of the images.
    """
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    return np.concatenate([order[:shots] for order in orders])


def few_shot(task: Task) -> Result:
    """Predict by ridge regression to one-hot targets, fitted on a few images of each class.

    This is the few-shot evaluation of the ViT paper (Dosovitskiy et al. 2021, section 4.1).
    """
    counts = np.unique(task.train.labels, return_counts=True)[1]
    result = {}
    for shots in task.settings.shots:
        accuracies = []
        for seed in range(task.settings.seeds):
            drawn = task.train.take(draw(task.train.labels, shots, seed))
            predicted = fit_ridge(drawn, task.num_classes).predict(task.test.features, PENALTY)
            accuracies.append(float(np.mean(predicted == task.test.labels)))
        result[str(shots)] = {
            "mean": float(np.mean(accuracies)),
            "min": min(accuracies),
            "max": max(accuracies),
            "top1": accuracies,  # by seed
            "images": int(np.minimum(counts, shots).sum()),
            "small_classes": int((counts < shots).sum()),  # all of their images are taken
        }
    return {"shots": result, "count": len(task.test.labels), "penalty": PENALTY}
