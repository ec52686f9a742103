"""How sure differences are: of two ways to train on the same folds, and of one pair among many."""

import math

import numpy as np
import scipy


def paired_interval(differences, num_folds, confidence=0.95):
    """Return (mean, low, high): the corrected repeated k-fold t-interval of paired differences.

    Two folds of one cross-validation are trained on mostly the same images, so that their differences move together.
    The plain t-interval divides the variance by n as if they were n independent experiments; it comes out too narrow,
    and the more often the folds are repeated, the more it promises. Here 1/n becomes 1/n + 1/(num_folds - 1), where the
    second term, the size of a test part over that of a training part, stands for what the folds share and stays however
    often they are repeated.

    Args:
        differences: (n,), n >= 2, one for each fold of each repetition: score of one way minus score of the other, on
            the same fold and seed.
        num_folds: parts that each repetition splits the rows into, at least 2.
        confidence: share of such intervals that hold the true mean, between 0 and 1.

    Reference: Nadeau and Bengio, Inference for the Generalization Error, 2003, Machine Learning 52, section 4; in this
    form for repeated folds Bouckaert and Frank, Evaluating the Replicability of Significance Tests for Comparing
    Learning Algorithms, 2004, section 3. The correction is a rule of thumb: no unbiased estimate exists.
    """
    return _interval(differences, 1 / (num_folds - 1), confidence)


def holm(p_values):
    """Return the p values of a family of comparisons, corrected so that the chance of any false one is kept.

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979, Scandinavian J. of Statistics 6.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return corrected.tolist()


def compute_verdict(interval, greater_is_better=True):
    """Return 1, 0 or -1: the difference of this (low, high) is for the better, may be chance, or is for the worse."""
    low, high = interval if greater_is_better else (-interval[1], -interval[0])
    return 1 if low > 0 else -1 if high < 0 else 0


def describe_difference(difference, interval):
    """Return a difference of scores in words."""
    return f"{difference:+.5f}, 95 % {interval[0]:+.5f} to {interval[1]:+.5f}"


def compare_scores(sampling, index, base=0):
    """Return the score of one prediction of a sampling.Sampling, and its difference to another, with 95 % intervals."""
    difference, low, high, _ = sampling.difference(base, index)
    numbers = {"score": float(sampling.scores[index]), "interval": list(sampling.interval(index))}
    return numbers | {"difference": difference, "difference_interval": [low, high]}


def _interval(differences, correction, confidence):
    """The t-interval whose variance of the mean is the sample's times 1/n + correction; 0 gives the textbook's."""
    differences = np.asarray(differences, dtype=np.float64)
    count = len(differences)
    assert count >= 2, "one difference says nothing about how much they vary"
    mean = float(differences.mean())
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, count - 1)
    half = quantile * math.sqrt(differences.var(ddof=1) * (1 / count + correction))
    return mean, mean - float(half), mean + float(half)
