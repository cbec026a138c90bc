"""Linear classification by multinomial logistic regression, fitted by L-BFGS."""

import importlib
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.errors import InputMissingError
from vit_jax.evaluation.probes.choosing import choose
from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.scaling import Standardization, standardization
from vit_jax.evaluation.probes.task import Result, Task, measure

# 0.001 to 10,000, one a decade.
PENALTIES = tuple(float(10**i) for i in range(-3, 5))

MAX_ITERATIONS = 1000
TOLERANCE = 1e-5  # of the gradient of the mean loss


class Logistic(NamedTuple):
    """A logistic regression of standardized features."""

    scale: Standardization
    model: Any  # scikit-learn's

    @property
    def converged(self) -> bool:
        """Whether L-BFGS reached the tolerance."""
        return bool(self.model.n_iter_.max() < MAX_ITERATIONS)

    def predict(self, features: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """Return the class of each image."""
        return self.model.predict(self.scale(features))


def import_solver() -> tuple[Any, Any]:
    """Return the linear models of scikit-learn, and the limits of its threads.

    Raises:
      InputMissingError: scikit-learn is not installed.
    """
    try:
        linear = importlib.import_module("sklearn.linear_model")
        threads = importlib.import_module("threadpoolctl")  # scikit-learn needs it
    except ImportError as error:
        hint = "run pip install 'vit_jax[analysis]', or leave it out: --probes=knn,ridge"
        raise InputMissingError(f"the probe logistic needs scikit-learn; {hint}") from error
    return linear, threads


def fit_logistic(train: Labelled, penalty: float) -> Logistic:
    """Return the logistic regression of some images; float64.

    The weights W and the bias minimize the sum of the cross-entropies + penalty / 2 |W|^2.

    Args:
      train: The images.
      penalty: The penalty, 1 / C of scikit-learn.

    Raises:
      InputMissingError: scikit-learn is not installed.
    """
    linear, threads = import_solver()
    scale = standardization(train.features)
    model = linear.LogisticRegression(C=1 / penalty, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    # One thread: the sums are the same on any number of cores. With few images it is faster, too.
    with warnings.catch_warnings(), threads.threadpool_limits(1):
        warnings.simplefilter("ignore")  # `converged` says it
        model.fit(scale(train.features), train.labels)
    return Logistic(scale, model)


def logistic(task: Task) -> Result:
    """Predict by logistic regression, with the penalty that is best on the choosing images."""
    fitted, (features, labels) = task.choosing
    choice = choose(
        PENALTIES, lambda penalty: fit_logistic(fitted, penalty).predict(features), labels
    )
    last = fit_logistic(task.train, choice.penalty)
    result = measure(last.predict(task.test.features), task.test.labels)
    return {**result, **choice._asdict(), "converged": last.converged}
