"""A new row of a class head on frozen features: ridge regression through the logistic function, in NumPy.

The old rows stay as they are. What is fitted is how far the new class's logit lies above the log of the sum of the old
ones' exponentials: a logistic regression with that as its offset, solved in its dual by reweighted least squares
(kernel ridge regression; Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2nd ed., 4.4 and 12.3.7).
Each step solves as many equations as there are images, however many features there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRENGTHS", "choose_strength", "fit_row", "log_sum", "out_of_fold"]

Array = NDArray[np.float64]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
_STEPS, _FOLDS = 12, 5
# The constant feature: so large that the penalty hardly holds the bias back.
_CONSTANT = 10.0
_LEAST_WEIGHT = 1e-5


def log_sum(logits: Array) -> Array:
    """The log of the sum of exponentials of each row, (n,)."""
    most = logits.max(axis=1)
    return np.asarray(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)), np.float64)


def fit_row(features: Array, offset: Array, wanted: NDArray[np.bool_], strength: float) -> tuple[Array, float]:
    """The weights (d,) and the bias of the new logit.

    Parameters:
        features: (n, d), each part of them scaled to a mean square of about 1.
        offset: (n,), what the new logit must exceed, `log_sum` of the others.
        wanted: (n,), whether the image shows the new class; both kinds count alike in all.
        strength: of the penalty on the weights.
    """
    kernel = features @ features.T / features.shape[1] + _CONSTANT**2
    count = len(wanted)
    share = np.where(wanted, 0.5 * count / max(1, wanted.sum()), 0.5 * count / max(1, (~wanted).sum()))
    dual = np.zeros(count)
    # The offset only shifts what is fitted: the new logit itself is linear in the features.
    for _ in range(_STEPS):
        linear = kernel @ dual
        chance = 0.5 * (1 + np.tanh(0.5 * (linear - offset)))
        weight = np.maximum(share * chance * (1 - chance), _LEAST_WEIGHT)
        target = linear + np.clip(share * (wanted - chance) / weight, -_CONSTANT, _CONSTANT)
        dual = np.linalg.solve(kernel + np.diag(strength / weight), target)
    return features.T @ dual / features.shape[1], float(_CONSTANT**2 * dual.sum())


def out_of_fold(
    features: Array, offset: Array, wanted: NDArray[np.bool_], groups: Sequence[str], strength: float
) -> Array:
    """The new logit (n,) of each image by a row that was fitted without the image's group."""
    names = sorted(set(groups))
    fold_of = {name: number % _FOLDS for number, name in enumerate(names)}
    folds = np.array([fold_of[group] for group in groups])
    logits = np.zeros(len(wanted))
    for fold in set(folds.tolist()):
        kept = folds != fold
        if not kept.any():
            kept = ~kept
        weights, bias = fit_row(features[kept], offset[kept], wanted[kept], strength)
        logits[~kept] = features[~kept] @ weights + bias
    return logits


def choose_strength(features: Array, offset: Array, wanted: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The strength of STRENGTHS with the least loss on images that the fit has not seen."""

    def loss(strength: float) -> float:
        margin = out_of_fold(features, offset, wanted, groups, strength) - offset
        losses = np.logaddexp(0, np.where(wanted, -margin, margin))
        return float(sum(losses[side].mean() for side in (wanted, ~wanted) if side.any()))

    return min(STRENGTHS, key=loss)
