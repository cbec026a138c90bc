"""Classification by a vote of the nearest training images."""

import numpy as np
from jaxtyping import Float, Int

from vit_jax.evaluation.probes.scaling import chunks
from vit_jax.evaluation.probes.task import Result, Task, measure


def knn(task: Task) -> Result:
    """Predict the most frequent class of the neighbours; of equally frequent ones, the first."""
    return _measure(task, np.ones_like(task.neighbours.similarity))


def weighted_knn(task: Task) -> Result:
    """Predict the class with the largest sum of weights, as DINO (Caron et al. 2021, section 3.2).

    A neighbour of cosine similarity s has weight exp(s / temperature) (Wu et al. 2018, sec. 3.4).
    """
    temperature = task.settings.temperature
    weights = np.exp(task.neighbours.similarity / temperature)
    return {**_measure(task, weights), "temperature": temperature}


def vote(
    labels: Int[np.ndarray, "n k"], weights: Float[np.ndarray, "n k"], num_classes: int
) -> Int[np.ndarray, " n"]:
    """Return the class with the largest sum of weights in each row; of equal ones, the first."""
    winners = np.empty(len(labels), np.int64)
    for span in chunks(len(labels)):
        count = span.stop - span.start
        votes = np.zeros((count, num_classes))
        np.add.at(votes, (np.arange(count)[:, None], labels[span]), weights[span])
        winners[span] = votes.argmax(axis=1)
    return winners


def _measure(task: Task, weights: Float[np.ndarray, "n k"]) -> Result:
    labels = task.neighbours.labels
    predicted = vote(labels, weights, task.num_classes)
    return {**measure(predicted, task.test.labels), "neighbours": labels.shape[1]}
