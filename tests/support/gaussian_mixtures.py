"""scikit-learn's mixture of two Gaussians, as the published code of PAA calls it: what ours is compared with."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

# scikit-learn subtracts squares of values over variances, which are 1e-5 and more: for values below 60.
ROUNDING = 1e-6


class Oracle(NamedTuple):
    """Of each value, by scikit-learn."""

    component: np.ndarray  # int, the more likely one
    log_likelihood: np.ndarray  # under both
    margin: np.ndarray  # log-likelihood ratio of the components
    steps: int

    def positives(self) -> list[int]:
        """Scheme (c), as published: of the first component the values up to the most likely one, by their places."""
        first = np.flatnonzero(self.component == 0)
        return first[: int(np.argmax(self.log_likelihood[first])) + 1].tolist() if len(first) else []

    def tied(self, positives: list[int]) -> bool:
        """Whether rounding alone makes these positives others: a component or the most likely value is a tie."""
        if np.abs(self.margin).min() < ROUNDING:
            return True
        ends = [places[-1] for places in (self.positives(), positives) if places]
        return bool(np.ptp(self.log_likelihood[ends]) < ROUNDING)


def fitted_by_sklearn(values: Sequence[float]) -> Oracle:
    """The mixture of at least two values."""
    x = np.asarray(values, dtype=np.float64)[:, None]
    mixture = GaussianMixture(
        2,
        covariance_type="diag",
        reg_covar=1e-5,
        weights_init=[0.5, 0.5],
        means_init=[[x.min()], [x.max()]],
        precisions_init=[[1.0], [1.0]],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    shares = mixture.predict_proba(x)
    with np.errstate(divide="ignore"):
        margin = np.log(shares[:, 0]) - np.log(shares[:, 1])
    return Oracle(shares.argmax(1), mixture.score_samples(x), margin, mixture.n_iter_)
