"""How sure a score is: 95 % intervals from the examples it was measured on."""

import math

import numpy as np

Z_95 = 1.959963984540054
NUM_RESAMPLES = 1000


def weighted_mean(values_N: np.ndarray, weights_N: np.ndarray) -> float:
    """Weighted mean; an error rate weighted by the length of its reference is the rate of the corpus."""
    return float(np.dot(values_N, weights_N) / weights_N.sum())


def interval(values_N: np.ndarray, weights_N: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval (low, high) of the weighted mean.

    Wilson's binomial interval when every value is 0 or 1 and weighs the same, which stays honest at 0 % and
    100 %; otherwise the percentiles of a bootstrap over examples.
    """
    if len(values_N) == 0:
        raise ValueError("an interval needs at least one score")
    is_binary = bool(np.isin(values_N, (0.0, 1.0)).all()) and bool((weights_N == weights_N[0]).all())
    if is_binary:
        return wilson(int(values_N.sum()), len(values_N))
    return bootstrap(values_N, weights_N, seed=seed)


def wilson(num_right: int, num_asked: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    share, spread = num_right / num_asked, Z_95**2 / num_asked
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / num_asked + spread / (4 * num_asked))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrap(values_N: np.ndarray, weights_N: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """2.5 and 97.5 percentiles of the weighted mean over resampled examples (Efron 1979)."""
    rng = np.random.default_rng(seed)
    pick_RN = rng.integers(len(values_N), size=(NUM_RESAMPLES, len(values_N)))
    sums_R = (values_N * weights_N)[pick_RN].sum(axis=1)
    means_R = sums_R / weights_N[pick_RN].sum(axis=1)
    low, high = np.percentile(means_R, (2.5, 97.5))
    return float(low), float(high)
