#!/usr/bin/env python3
"""Writes tests/goldens/statistics.json: results of scipy, statsmodels and scikit-learn, for tests/statistics_golden.rs.

    python3 -m venv venv && venv/bin/pip install scipy statsmodels pandas scikit-learn
    venv/bin/python tools/make_statistics_goldens.py

Data are made here from fixed seeds and stored beside the results. Two things that those packages lack are computed
independently of emlab's way: Firth's logistic regression by a general optimiser over single answers, and the cluster
bootstrap's percentiles over the very draws of emlab (tools/philox.py), and again by scipy over draws of its own.
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy
import sklearn
import statsmodels
import statsmodels.api as sm
from scipy import optimize, stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import Table, Table2x2
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    proportion_confint,
    proportion_effectsize,
    proportions_ztest,
)

import philox

OUT = Path(__file__).parent.parent / "tests" / "goldens" / "statistics.json"
# Successes and trials of two arms: the published comparisons first (0.68 % against 0.07 % of 21,600; 0.96 % against
# 0.42 % of 7,200), then small, large, equal, extreme and zero counts.
ARMS = [
    (147, 21600, 15, 21600),
    (69, 7200, 30, 7200),
    (20, 800, 1, 800),
    (3, 10, 5, 12),
    (7, 9, 2, 11),
    (5, 50, 5, 50),
    (10800, 21600, 10400, 21600),
    (900, 21600, 300, 21600),
    (4, 800, 0, 800),
    (0, 21600, 15, 21600),
    (12, 12, 3, 9),
    (1, 2, 1, 3),
    (1999, 2000, 1000, 2000),
]


def distributions():
    return {
        "normal_sf": [[z, stats.norm.sf(z)] for z in (-3.0, 0.0, 0.3, 1.96, 5.0, 10.4, 20.0, 37.0)],
        "normal_quantile": [[p, stats.norm.ppf(p)] for p in (1e-12, 0.025, 0.3, 0.5, 0.975, 0.9999)],
        "t_two_sided": [
            [t, df, 2 * stats.t.sf(t, df)]
            for t, df in ((0.5, 7), (2.3, 7), (4.0, 71), (15.0, 71), (12.0, 20000), (30.0, 8), (1e-3, 3), (2.0, 1))
        ],
        "t_quantile": [[p, df, stats.t.ppf(p, df)] for p in (0.975, 0.995, 0.9) for df in (1, 2, 7, 8, 71, 20000)],
        "chi_square_sf": [
            [x, df, stats.chi2.sf(x, df)] for x, df in ((0.5, 1), (108.0, 1), (3.0, 4), (300.0, 6), (40.0, 40), (700.0, 2))
        ],
    }


def two_by_two():
    rows = []
    for k_a, n_a, k_b, n_b in ARMS:
        table = np.array([[k_a, n_a - k_a], [k_b, n_b - k_b]])
        z, p = proportions_ztest([k_a, k_b], [n_a, n_b])
        row = {"arms": [k_a, n_a, k_b, n_b], "z": [z, p]}
        row["wilson"] = [list(proportion_confint(k_a, n_a, alpha, "wilson")) for alpha in (0.05, 0.01)]
        for name, yates in (("chi_square", False), ("chi_square_yates", True)):
            found = stats.chi2_contingency(table, correction=yates)
            row[name] = [found.statistic, found.pvalue]
        row["fisher"] = stats.fisher_exact(table).pvalue
        # Haldane and Anscombe add 1/2 to all four counts if one is 0; shift_zeros=True adds it to that one alone.
        odds = Table2x2(table + (0.5 if 0 in table else 0.0), shift_zeros=False)
        row["odds_ratio"] = [odds.oddsratio, *odds.oddsratio_confint(0.05)]
        low, high = confint_proportions_2indep(k_a, n_a, k_b, n_b, method="newcomb", compare="diff", alpha=0.05)
        row["difference"] = [k_a / n_a - k_b / n_b, low, high]
        h = proportion_effectsize(k_a / n_a, k_b / n_b)
        row["h"] = h
        row["power"] = NormalIndPower().power(h, n_a, 0.05, n_b / n_a) if h else 0.05
        rows.append(row)
    return rows


def tables():
    found = []
    for table in ([[10, 20, 30], [6, 9, 17]], [[207, 21393], [90, 7110], [142, 7058]], [[5, 1, 9], [2, 8, 4], [1, 1, 7]]):
        result = stats.chi2_contingency(table)
        found.append({"table": table, "chi_square": [result.statistic, result.dof, result.pvalue]})
    return found


def correlations():
    rng, found = np.random.default_rng(1), []
    for n, kind in ((7, "ties"), (40, "normal"), (200, "weak"), (60, "strong")):
        x = rng.normal(size=n)
        y = {"ties": x, "normal": 0.8 * x, "weak": 0.02 * x, "strong": 50 * x}[kind] + rng.normal(size=n)
        if kind == "ties":
            x, y = np.round(x), np.round(2 * y)
        x, y = np.round(x, 3), np.round(y, 3)
        pearson, spearman = stats.pearsonr(x, y), stats.spearmanr(x, y)
        half = stats.norm.ppf(0.975) * np.sqrt((1 + spearman.statistic**2 / 2) / (n - 3))
        centre = np.arctanh(spearman.statistic)
        found.append({
            "pairs": list(map(list, zip(x, y))),
            "pearson": [pearson.statistic, pearson.pvalue, *pearson.confidence_interval(0.95)],
            "spearman": [spearman.statistic, spearman.pvalue, np.tanh(centre - half), np.tanh(centre + half)],
        })
    return found


def multiple():
    families = ([0.01, 0.04, 0.03, 0.04, 0.9, 0.0], [0.5], [1e-25, 9e-5, 0.049], [0.2, 0.2, 0.2, 1.0])
    return [
        {"p": p, **{name: list(multipletests(p, method=name)[1]) for name in ("bonferroni", "holm", "fdr_bh")}}
        for p in families
    ]


def power():
    found, solver = [], NormalIndPower()
    for a, b, n_a, n_b, wanted, alpha in (
        (0.0096, 0.0042, 7200, 7200, 0.8, 0.05),
        (0.0068, 0.0007, 800, 2400, 0.9, 0.01),
        (0.5, 0.45, 100, 50, 0.99, 0.05),
        (0.02, 0.0199, 800, 800, 0.06, 0.05),
    ):
        h = proportion_effectsize(a, b)
        n = optimize.brentq(lambda n: solver.power(h, n, alpha, 1) - wanted, 2, 1e12, xtol=1e-9, rtol=1e-13)
        effect = optimize.brentq(lambda h: solver.power(h, n_a, alpha, n_b / n_a) - wanted, 1e-9, 9, xtol=1e-15, rtol=1e-13)
        assert abs(n / solver.solve_power(h, None, alpha, wanted, 1) - 1) < 1e-4
        found.append({
            "given": [a, b, n_a, n_b, wanted, alpha],
            "power": solver.power(h, n_a, alpha, n_b / n_a),
            "sample_size": n,
            "effect": effect,
        })
    return found


def trends():
    found = []
    for groups in (
        [(np.log(p * 1e9), k, 2400) for p, k in ((1, 4), (4, 11), (12, 9), (27, 25), (1.7, 6), (4, 3), (8, 14), (14, 19), (32, 40))],
        [(0, 3, 10), (1, 5, 14), (2, 9, 12)],
    ):
        scores, k, n = (np.array(column) for column in zip(*groups))
        table = Table(np.column_stack([n - k, k]), shift_zeros=False)
        linear = table.test_ordinal_association(row_scores=scores, col_scores=np.array([0, 1]))
        # statsmodels divides by N - 1, Cochran-Armitage by N.
        z = linear.zscore * np.sqrt(n.sum() / (n.sum() - 1))
        regressors = np.column_stack([np.ones(len(k)), scores])
        # Proportions weighted by n: given counts, statsmodels leaves n out of the scale.
        binomial = sm.families.Binomial()
        fit = sm.GLM(k / n, regressors, family=binomial, var_weights=n).fit(scale="X2", tol=1e-12, maxiter=200)
        found.append({
            "groups": [list(map(float, group)) for group in groups],
            "z": [z, 2 * stats.norm.sf(abs(z))],
            "dispersion": fit.scale,
            "errors": list(fit.bse),
        })
    return found


def patterns(seed, clusters, rate, cells=6):
    """Counts by cluster and cell of a 2 x 3 design with interactions: cluster, x, k, n."""
    rng, found = np.random.default_rng(seed), []
    for cluster in range(clusters):
        often = rng.gamma(1.0)
        for cell in range(cells):
            tuned, form = cell // 3, cell % 3
            x = [1, tuned, form == 1, form == 2, tuned * (form == 1), tuned * (form == 2)]
            n = int(rng.integers(20, 60))
            p = min(0.9, often * rate(tuned, form))
            found.append((cluster, [float(value) for value in x], int(rng.binomial(n, p)), n))
    return found


def single(rows):
    y = np.concatenate([np.r_[np.ones(k), np.zeros(n - k)] for _, _, k, n in rows])
    x = np.concatenate([np.tile(x, (n, 1)) for _, x, _, n in rows])
    groups = np.concatenate([np.full(n, cluster) for cluster, _, _, n in rows])
    return y, x, groups


def firth(y, x):
    def loss(beta):
        eta = x @ beta
        weight = 1 / (1 + np.exp(-eta)) / (1 + np.exp(eta))
        likelihood = y @ eta - np.logaddexp(0, eta).sum()
        return -likelihood - 0.5 * np.linalg.slogdet((x.T * weight) @ x)[1]

    beta = np.zeros(x.shape[1])
    for method in ("BFGS", "Nelder-Mead", "BFGS", "Powell", "Nelder-Mead"):
        options = {"gtol": 1e-10} if method == "BFGS" else {"xatol": 1e-11, "fatol": 1e-13, "maxiter": 20000, "maxfev": 20000}
        if method == "Powell":
            options = {"xtol": 1e-12, "ftol": 1e-15}
        beta = optimize.minimize(loss, beta, method=method, options=options).x
    # Newton on a numerical gradient's zero: the score of the penalised likelihood, written out.
    def score(beta):
        pi = 1 / (1 + np.exp(-(x @ beta)))
        weight = pi * (1 - pi)
        information = (x.T * weight) @ x
        hat = weight * np.einsum("ij,jk,ik->i", x, np.linalg.inv(information), x)
        return x.T @ (y - pi + hat * (0.5 - pi))

    root = optimize.root(score, beta, tol=1e-13).x
    assert np.abs(root - beta).max() < 1e-3, (root, beta)
    pi = 1 / (1 + np.exp(-(x @ root)))
    return root, np.linalg.inv((x.T * (pi * (1 - pi))) @ x)


def logistic():
    found = []
    for seed, clusters, rate in (
        (3, 24, lambda tuned, form: 0.02 + 0.05 * tuned + 0.02 * form),
        (4, 8, lambda tuned, form: 0.1 + 0.2 * tuned),
    ):
        rows = patterns(seed, clusters, rate)
        y, x, groups = single(rows)
        plain = sm.Logit(y, x).fit(disp=0, tol=1e-12, maxiter=200)
        robust = sm.Logit(y, x).fit(disp=0, tol=1e-12, maxiter=200, cov_type="cluster", cov_kwds={"groups": groups})
        student = sm.Logit(y, x).fit(
            disp=0, tol=1e-12, maxiter=200, cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
        )
        glm = sm.GLM(y, x, family=sm.families.Binomial()).fit(
            tol=1e-12, maxiter=200, cov_type="cluster", cov_kwds={"groups": groups}
        )
        assert np.allclose(glm.bse, robust.bse, rtol=1e-6)
        penalised, covariance = firth(y, x)
        found.append({
            "patterns": rows,
            "coefficients": list(plain.params),
            "log_likelihood": plain.llf,
            "errors": list(plain.bse),
            "cluster_errors": list(robust.bse),
            "z": [list(robust.tvalues), list(robust.pvalues), robust.conf_int().tolist()],
            "t": [list(student.tvalues), list(student.pvalues), student.conf_int().tolist()],
            "firth": list(penalised),
            "firth_errors": list(np.sqrt(np.diag(covariance))),
        })
    # A cell without an event: no maximum-likelihood estimate.
    rows = patterns(5, 12, lambda tuned, form: 0.04 * tuned + 0.02 * form)
    y, x, _ = single(rows)
    penalised, covariance = firth(y, x)
    found.append({"patterns": rows, "firth": list(penalised), "firth_errors": list(np.sqrt(np.diag(covariance)))})
    return found


def pairs(seed, clusters, a, b, n):
    """Counts of two arms by cluster: k_a, n_a, k_b, n_b."""
    rng = np.random.default_rng(seed)
    often = rng.gamma(2.0, 0.5, clusters)
    return [
        [int(rng.binomial(n, min(1, a * u))), n, int(rng.binomial(n, min(1, b * u))), n + int(rng.integers(0, 5))]
        for u in often
    ]


def clustered():
    found = []
    for data in (pairs(6, 72, 0.02, 0.005, 60), pairs(7, 8, 0.1, 0.05, 40)):
        rows = [(g, [1.0, arm], k, n) for g, (ka, na, kb, nb) in enumerate(data) for arm, k, n in ((1.0, ka, na), (0.0, kb, nb))]
        y, x, groups = single(rows)
        fit = sm.OLS(y, x).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        found.append({
            "pairs": data,
            "difference": [fit.params[1], fit.bse[1], fit.tvalues[1], fit.pvalues[1], *fit.conf_int()[1]],
        })
    return found


def statistics_of(sums):
    k_a, n_a, k_b, n_b = (sums[..., i].astype(float) for i in range(4))
    zero = np.where((k_a == 0) | (k_a == n_a) | (k_b == 0) | (k_b == n_b), 0.5, 0.0)
    ratio = (k_a + zero) * (n_b - k_b + zero) / (n_a - k_a + zero) / (k_b + zero)
    return {"rate": k_a / n_a, "difference": k_a / n_a - k_b / n_b, "odds_ratio": ratio}


def expanded(groups):
    return stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1))


def bootstrap():
    """Over emlab's own resamples: equal up to rounding."""
    found = []
    for seed, data in ((11, pairs(8, 72, 0.01, 0.002, 300)), (12, pairs(9, 8, 0.1, 0.03, 50)), (13, pairs(10, 7, 0.02, 0.0, 50))):
        counts, resamples, groups = np.array(data, dtype=np.uint64), 10_000, len(data)
        blocks = -(-groups // 4)
        block, row = np.meshgrid(np.arange(blocks), np.arange(resamples))
        zero = np.zeros_like(block)
        words = np.stack(philox.words(philox.key(seed, "golden"), [block, row, zero, zero]), axis=-1)
        drawn = (words.reshape(resamples, 4 * blocks)[:, :groups] * np.uint64(groups)) >> np.uint64(32)
        tail = expanded(groups)
        values = statistics_of(counts[drawn].sum(axis=1))
        found.append({
            "seed": seed,
            "pairs": data,
            **{name: list(np.quantile(value, [tail, 1 - tail])) for name, value in values.items()},
        })
    return found


def bootstrap_by_scipy():
    """Over scipy's own resamples, enough of them that chance moves the interval by less than 1e-3, relative."""
    data = np.array(pairs(14, 72, 0.5, 0.3, 100))
    level = 1 - 2 * expanded(len(data))

    def ends(name):
        def statistic(*columns, axis):
            return statistics_of(np.stack([column.sum(axis=axis) for column in columns], axis=-1))[name]

        result = stats.bootstrap(
            tuple(data.T), statistic, n_resamples=400_000, batch=20_000, vectorized=True, paired=True,
            confidence_level=level, method="percentile", rng=np.random.default_rng(15),
        )
        return list(result.confidence_interval)

    return {"pairs": data.tolist(), **{name: ends(name) for name in ("rate", "difference", "odds_ratio")}}


def agreement():
    rng, found = np.random.default_rng(16), []
    for n, noise in ((60, 8), (25, 40)):
        first = np.round(np.clip(rng.normal(70, 30, n), 0, 100), 1)
        second = np.round(np.clip(first + rng.normal(-3, noise, n), 0, 100), 1)
        # Rust rounds halves away from zero, numpy to even.
        whole = [np.floor(score + 0.5).astype(int) for score in (first, second)]
        difference = first - second
        deviation = difference.std(ddof=1)
        half = stats.norm.ppf(0.975) * deviation
        same = (first < 30) == (second < 30)
        found.append({
            "pairs": list(map(list, zip(first, second))),
            "linear": cohen_kappa_score(*whole, labels=list(range(101)), weights="linear"),
            "quadratic": cohen_kappa_score(*whole, labels=list(range(101)), weights="quadratic"),
            "side": cohen_kappa_score(first < 30, second < 30),
            "same": int(same.sum()),
            "bland_altman": [difference.mean(), deviation, difference.mean() - half, difference.mean() + half],
        })
    return found


def plain(value):
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def main():
    golden = {
        "made_by": {
            "python": sys.version.split()[0],
            **{package.__name__: package.__version__ for package in (np, scipy, statsmodels, sklearn)},
        },
        "distributions": distributions(),
        "two_by_two": two_by_two(),
        "tables": tables(),
        "correlations": correlations(),
        "multiple": multiple(),
        "power": power(),
        "trends": trends(),
        "logistic": logistic(),
        "clustered": clustered(),
        "bootstrap": bootstrap(),
        "bootstrap_by_scipy": bootstrap_by_scipy(),
        "agreement": agreement(),
    }
    lines = (f"{json.dumps(name)}: {json.dumps(plain(value))}" for name, value in golden.items())
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
