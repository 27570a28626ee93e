"""The two steps of expectation maximisation that STAPLE and multi-label STAPLE share, on vote patterns.

theta[r, j, c] is the probability that rater r votes j where the truth is c. Its last row stands for "no vote": it is 1
and so drops out of every product.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse


class ExpectationMaximization:
    """The votes of patterns, laid out for both steps.

    Args:
        table: `(P, R)` vote of each rater: 0 to `votes` - 1, or `votes` for no vote.
        counts: `(P,)` voxels of each pattern.
        votes: number of different votes.
    """

    def __init__(self, table: np.ndarray, counts: np.ndarray, votes: int) -> None:
        patterns, self.raters = table.shape
        self.counts, self.votes = counts, votes
        # one column for each vote of each rater, of which a pattern has one per rater
        first_column = (votes + 1) * np.arange(self.raters)
        columns = table.astype(np.int64) + first_column
        starts = np.arange(0, columns.size + 1, self.raters)
        shape = (patterns, self.raters * (votes + 1))
        self._indicator = sparse.csr_array((np.ones(columns.size), columns.ravel(), starts), shape)
        self._transposed = self._indicator.T.tocsr()

    def mass_per_vote(self, mass: np.ndarray) -> np.ndarray:
        """`(R, votes + 1, C)`: the mass, `(P, C)`, under each vote of each rater."""
        return (self._transposed @ mass).reshape(self.raters, self.votes + 1, -1)

    def posterior(self, theta: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """The E-step: W(c) ~ prior(c) prod_r theta_r(vote of r | c) for each pattern.

        Args:
            theta: `(R, votes + 1, C)`.
            prior: `(C,)`.

        Returns:
            `(P, C)` that sum to 1, or to 0 where the model holds the pattern for impossible.
        """
        with np.errstate(divide="ignore"):
            log_prior = np.log(prior)
            log_theta = np.log(theta)
        log_theta_per_column = log_theta.reshape(-1, theta.shape[2])
        log_product = log_prior + self._indicator @ log_theta_per_column
        highest = log_product.max(1, keepdims=True)
        possible = np.isfinite(highest)
        shift = np.where(possible, highest, 0.0)  # so that the likeliest truth is exp(0), and nothing underflows
        weights = np.exp(log_product - shift)
        total = weights.sum(1, keepdims=True)
        return weights / np.where(possible, total, 1.0)

    def rates(self, W: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The M-step: theta_r(j | c), the share of vote j in the mass of truth c where r votes.

        Args:
            W: `(P, C)` probability of each truth.
            before: `(R, votes + 1, C)`, kept where a truth has no mass to learn from.
        """
        voxels = self.counts[:, None]
        sums = self.mass_per_vote(voxels * W)
        total = sums[:, :-1].sum(1, keepdims=True)
        has_mass = total > 0
        shares = sums / np.where(has_mass, total, 1.0)
        theta = np.where(has_mass, shares, before)
        theta[:, -1] = 1
        return theta
