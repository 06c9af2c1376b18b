#!/usr/bin/env python3
"""Tests the statistics on simulated studies, for which the truth is known.

    python3 tools/simulate_studies.py [--studies 2000] [--resamples 1000]      # minutes; needs numpy and scipy

Coverage of 95 % cluster-bootstrap intervals by several methods: the table in src/study/stats/bootstrap.rs. Each study has
two arms of 300 answers in each cluster. A cluster multiplies the first arm's rate by an exponential factor, and the
second's by its mean with another one, so that the arms of a cluster are alike.

How often a trend over log parameters is found at the 5 % level when there is none: src/study/analyze/regression.rs. Each
of nine (or five) models has eight questions of 300 answers; a question multiplies its rate by an exponential factor,
and a model by a log-normal one whose logarithm has the standard deviation given.
"""

import argparse

import numpy as np
from scipy.stats import norm, t

ANSWERS = 300
METHODS = ("percentile", "BCa", "expanded", "expanded BCa", "bootstrap-t", "clustered t")


def intervals(value, drawn, left_out):
    """The interval by each method, from the statistic, its resamples, and its values with each cluster left out."""
    groups = len(left_out)
    plain, expanded = 0.025, norm.cdf(-np.sqrt(groups / (groups - 1)) * t.ppf(0.975, groups - 1))
    share = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = norm.ppf(np.clip(share, 1e-6, 1 - 1e-6))
    apart = left_out.mean() - left_out
    squares = (apart**2).sum()
    skew = (apart**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0

    def corrected(tail):
        z = bias + norm.ppf(tail)
        return norm.cdf(bias + z / (1 - skew * z))

    return {
        "percentile": np.quantile(drawn, [plain, 1 - plain]),
        "BCa": np.quantile(drawn, [corrected(plain), corrected(1 - plain)]),
        "expanded": np.quantile(drawn, [expanded, 1 - expanded]),
        "expanded BCa": np.quantile(drawn, [corrected(expanded), corrected(1 - expanded)]),
    }


def log_odds_ratio(a, b, n):
    half = np.where((a == 0) | (b == 0), 0.5, 0.0)
    return np.log((a + half) * (n - b + half) / ((n - a + half) * (b + half)))


def difference_error(a, b, n):
    groups = a.shape[-1]
    apart = (a - a.mean(-1, keepdims=True) - b + b.mean(-1, keepdims=True)) / n
    return np.sqrt(groups / (groups - 1) * (apart**2).sum(-1))


def study(rng, groups, rate_a, rate_b, resamples):
    own, other, n = rng.exponential(size=groups), rng.exponential(size=groups), groups * ANSWERS
    a = rng.binomial(ANSWERS, np.minimum(1, rate_a * own))
    b = rng.binomial(ANSWERS, np.minimum(1, rate_b * (own + other) / 2))
    chosen = rng.integers(0, groups, (resamples, groups))
    sum_a, sum_b, rest = a[chosen].sum(1), b[chosen].sum(1), n - ANSWERS
    found = {
        "rate": (rate_a, intervals(a.mean() / ANSWERS, sum_a / n, (a.sum() - a) / rest)),
        "difference": (
            rate_a - rate_b,
            intervals((a.sum() - b.sum()) / n, (sum_a - sum_b) / n, (a.sum() - a - b.sum() + b) / rest),
        ),
        "odds ratio": (
            np.log(rate_a / (1 - rate_a) * (1 - rate_b) / rate_b),
            intervals(
                log_odds_ratio(a.sum(), b.sum(), n),
                log_odds_ratio(sum_a, sum_b, n),
                log_odds_ratio(a.sum() - a, b.sum() - b, rest),
            ),
        ),
    }
    difference, error = (a.sum() - b.sum()) / n, difference_error(a, b, n)
    errors = difference_error(a[chosen], b[chosen], n)
    studentised = ((sum_a - sum_b) / n - difference) / np.where(errors > 0, errors, np.inf)
    low, high = np.quantile(studentised, [0.025, 0.975])
    half = t.ppf(0.975, groups - 1) * error
    found["difference"][1]["bootstrap-t"] = (difference - high * error, difference - low * error)
    found["difference"][1]["clustered t"] = (difference - half, difference + half)
    return found


def trend_found(rng, sizes, rate, spread):
    """Whether each method finds a trend; None if there is no event."""
    x = np.log10(sizes)
    design, groups = np.column_stack([np.ones(len(x)), x - x.mean()]), len(x)
    factor = np.exp(rng.normal(-spread * spread / 2, spread, groups))[:, None] * rng.exponential(size=(groups, 8))
    k, n = rng.binomial(ANSWERS, np.minimum(1, rate * factor)).sum(1), 8 * ANSWERS
    if (k > 0).sum() < 2:
        return None
    beta = np.array([np.log(k.sum() / (n * groups - k.sum())), 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ beta))
        covariance = np.linalg.inv((design.T * (n * p * (1 - p))) @ design)
        beta = beta + covariance @ design.T @ (k - n * p)
    moved = (design * (k - n * p)[:, None]) @ covariance
    robust = np.sqrt(groups / (groups - 1) * (moved[:, 1] ** 2).sum())
    dispersion = ((k - n * p) ** 2 / (n * p * (1 - p))).sum() / (groups - 2)
    error = np.sqrt(covariance[1, 1])
    return (
        abs(beta[1]) > 1.96 * error,
        abs(beta[1]) > t.ppf(0.975, groups - 1) * robust,
        abs(beta[1]) > t.ppf(0.975, groups - 2) * error * np.sqrt(dispersion),
    )


def trends(studies):
    print("\n| models | rate | spread of models | independent | cluster-robust t | dispersion t |")
    for sizes in ([1, 4, 12, 27, 1.7, 4, 8, 14, 32], [1, 4, 12, 8, 32]):
        for rate, spread in ((0.007, 0.0), (0.007, 0.5), (0.002, 0.5)):
            rng = np.random.default_rng(2)
            found = [trend_found(rng, np.array(sizes), rate, spread) for _ in range(studies)]
            shares = 100 * np.mean([each for each in found if each is not None], axis=0)
            print(f"| {len(sizes)} | {100 * rate:g} | {spread} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    print("| clusters | rates | of the | " + " | ".join(METHODS) + " |")
    for groups, rate_a, rate_b in ((72, 0.0068, 0.0007), (72, 0.0096, 0.0042), (8, 0.0068, 0.0007), (8, 0.05, 0.02)):
        rng, held = np.random.default_rng(1), {}
        for _ in range(args.studies):
            for name, (truth, ends) in study(rng, groups, rate_a, rate_b, args.resamples).items():
                for method, (low, high) in ends.items():
                    held.setdefault((name, method), []).append(low <= truth <= high)
        for name in ("rate", "difference", "odds ratio"):
            cells = [f"{100 * np.mean(held[name, m]):.1f}" if (name, m) in held else "" for m in METHODS]
            print(f"| {groups} | {100 * rate_a:g}, {100 * rate_b:g} | {name} | " + " | ".join(cells) + " |", flush=True)
    trends(args.studies)


if __name__ == "__main__":
    main()
