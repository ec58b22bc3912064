"""The contract of a backend: the passes that every ranking loss is made of, and what they return.

    R  positives of the ranking, those of all its processes      P  those of this process (without a group P = R)
    M  logits of this process      s  logits      y  qualities      H  the step (`torch_step.py`)

A pass computes sums over the implicit matrix H(s_j - s_i). Its row i is a positive; its column j is any logit, or
another positive. `backends.py` lists the modules that implement the two protocols. Positives, qualities and values come
in the computing dtype: float64 for float64 logits, else float32.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from .targets import Ranking


class Masses(NamedTuple):
    """The mass above each positive, sums of H; a NaN among the logits that are not ignored makes every entry NaN."""

    false_positives: Tensor  # (R,) float64 >= 0, sum of H(s_j - s_i) over the negatives j
    true_positives: Tensor  # (R,) float64 >= 0, the same over the positives j, the self pair with H(0)
    poison: Tensor  # () float64, NaN where a logit that is not ignored is NaN, else 0; also for R = 0
    reuse: object | None = None  # what `scatter` for the same positives can use again, O(R) memory


class SortingSums(NamedTuple):
    """Sums over the positives j for each positive i, (R,) each; every term of every sum is >= 0: no cancellation."""

    better: Tensor  # sum of H(x_ij) [y_j >= y_i]: the mass rightly above i, with the self pair, which counts H(0)
    missorted: Tensor  # sum of H(x_ij) [y_j < y_i]: the mass that should be below i, D_i
    deficit: Tensor  # sum of H(x_ij) max(y_i - y_j, 0)
    surplus: Tensor  # sum of H(x_ij) max(y_j - y_i, 0)


class LogitPasses(Protocol):
    """Passes over positives x logits."""

    def count(
        self,
        positives: Tensor,  # (R,) their logits
        own: Tensor,  # (P,) the logits at `ranking.index`; without a group the same as `positives`
        ranking: Ranking,
        delta: float,
    ) -> Masses:
        """Per positive the mass of the negatives and, of the `own` positives, that of the positives above it."""
        ...

    def scatter(
        self,
        weights: Tensor,  # (R,) float64, w_i
        positives: Tensor,  # (R,) their logits
        ranking: Ranking,
        delta: float,
        poison: Tensor,  # () 0 or NaN
        *,
        reuse: object | None = None,  # from the `Masses` of the same positives and delta; saves time, changes nothing
    ) -> Tensor:
        """Per logit j the sum of w_i H(s_j - s_i) over the positives i, plus `poison`; 0 for an ignored logit.

        Returns (M,) of the logits' dtype. The caller overwrites the values at the positives.
        """
        ...


class PairPasses(Protocol):
    """Passes over pairs of positives."""

    def sorting_sums(
        self,
        positives: Tensor,  # (R,)
        quality: Tensor,  # (R,)
        delta: float,
    ) -> SortingSums:
        """The sums behind equations 7 and 8, of the dtype of `positives`."""
        ...

    def sorting_demotion(
        self,
        spread: Tensor,  # (R,) S_k / D_k, the sorting error over the missorted mass
        positives: Tensor,  # (R,)
        quality: Tensor,  # (R,)
        delta: float,
    ) -> Tensor:
        """Per positive i the sum of spread_k H(x_ki) over the k with y_i < y_k, (R,): Eq. 12, second part.

        By this much the better positives that are ranked below i push i down.
        """
        ...

    def weigh_positives(
        self,
        values: Tensor,  # (R,)
        positives: Tensor,  # (R,)
        delta: float,
    ) -> Tensor:
        """Per positive i the sum of H(s_j - s_i) values_j over the positives j, (R,) float64, with the self pair."""
        ...
