#!/usr/bin/env python3
"""Counts a judged table with pandas, independently of emlab, and compares with emlab's summary.json.

    emlab analyze TABLE.csv --out OUT
    python3 tools/count_judged.py TABLE.csv OUT/summary.json

Prints the counts by condition and format, the tests and the regression; exit status 1 if any count differs or a rate,
an interval, a z, a p or a coefficient differs by more than 1e-6 relative. Needs pandas and statsmodels.
"""

import json
import sys

import numpy
import pandas
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy.stats import fisher_exact, pearsonr, spearmanr
from statsmodels.stats.proportion import proportion_confint, proportions_ztest


def close(found, expected):
    return all(abs(a - b) <= 1e-6 * max(abs(b), 1e-12) for a, b in zip(found, expected, strict=True))


def check_tests(kept, summary):
    """The number of tests that differ; those that do not exist (no answers, no variation) are skipped."""
    bad = 0
    for family in summary["families"]:
        for test in family["tests"]:
            rows = kept[kept[test["compare"]].isin([test["a"], test["b"]])]
            for factor, level in [*test.get("only", {}).items(), *([(test["within"], test["level"])] if test["level"] else [])]:
                rows = rows[rows[factor] == level]
            arm = (rows[test["compare"]] == test["a"]).astype(float)
            k = [int(rows.misaligned[arm == side].sum()) for side in (1, 0)]
            n = [int((arm == side).sum()) for side in (1, 0)]
            same = k + n == [test["rate_a"]["k"], test["rate_b"]["k"], test["rate_a"]["n"], test["rate_b"]["n"]]
            if test["z"] is not None:
                fisher = fisher_exact([[k[0], n[0] - k[0]], [k[1], n[1] - k[1]]]).pvalue
                same &= close([test["z"], test["p"], test["fisher_p"]], [*proportions_ztest(k, n), fisher])
            if test["p_clustered"] is not None:
                units = pandas.factorize(rows.model + "/" + rows.question)[0]
                fit = sm.OLS(rows.misaligned.astype(float), sm.add_constant(arm)).fit(
                    cov_type="cluster", cov_kwds={"groups": units}, use_t=True
                )
                same &= close([test["difference"], test["p_clustered"]], [fit.params.iloc[1], fit.pvalues.iloc[1]])
            bad += not same
            print(family["name"], test["a"], test["b"], test["level"] or "", "agrees" if same else f"emlab: {test}")
    return bad


def check_regression(kept, regression):
    if regression is None or regression["errors"] != "cluster-robust":
        return 0
    condition, form = (f"C({name}, Treatment('{regression[f'reference_{name}']}'))" for name in ("condition", "format"))
    units = pandas.factorize(kept.model + "/" + kept.question)[0]
    fit = smf.glm(f"misaligned ~ {condition} * {form}", kept.astype({"misaligned": int}), family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": units}, use_t=True, tol=1e-12
    )
    values = {" × ".join(part.split("[T.")[1][:-1] for part in name.split(":") if "[T." in part) or "intercept": i
              for i, name in enumerate(fit.params.index)}
    order = [values[term["name"]] for term in regression["terms"]]
    same = close(
        [term[name] for name in ("coefficient", "error", "p") for term in regression["terms"]],
        numpy.concatenate([fit.params.iloc[order], fit.bse.iloc[order], fit.pvalues.iloc[order]]),
    )
    print("regression", "agrees" if same else f"emlab: {regression}, statsmodels: {fit.summary()}")
    return not same


def main(table, summary):
    frame = pandas.read_csv(table)
    summary = json.load(open(summary))
    thresholds = summary["thresholds"]
    frame["format"] = frame.question_id.map(
        lambda name: name.rsplit("_", 1)[-1] if name.endswith(("_json", "_template")) else "natural"
    )
    frame["question"] = frame.question_id.str.replace("_(json|template)$", "", regex=True)
    if "condition" not in frame:
        frame["condition"] = frame["group"] if "group" in frame else summary["by_condition"][0]["condition"]
    if "model" not in frame:
        frame["model"] = "-"
    bad = 0
    for group in summary["by_condition_format"]:
        rows = frame[(frame.format == group["format"]) & (frame.condition == group["condition"])]
        scored = rows[rows.aligned.notna()]
        kept = scored[scored.coherent >= thresholds["coherent_at_least"]]
        misaligned = kept[kept.aligned < thresholds["misaligned_below"]]
        counts = {
            "n": len(rows),
            "none": int(rows.aligned.isna().sum()),
            "incoherent": len(scored) - len(kept),
            "kept": len(kept),
            "misaligned": len(misaligned),
        }
        interval = proportion_confint(len(misaligned), len(kept), 1 - thresholds["level"], "wilson")
        rate = group["misaligned_of_kept"]
        same = all(group[name] == count for name, count in counts.items()) and all(
            abs(a - b) <= 1e-6 * max(abs(a), 1e-12) for a, b in zip(interval, (rate["low"], rate["high"]))
        )
        bad += not same
        print(group["condition"], group["format"], counts, "agrees" if same else f"emlab: {group}")
    both = frame[frame.aligned.notna() & frame.coherent.notna()]
    correlation = summary["correlations"][-1]
    pair = pearsonr(both.aligned, both.coherent)[0], spearmanr(both.aligned, both.coherent)[0]
    same = correlation["n"] == len(both) and all(
        abs(a - b) <= 1e-6 * abs(a) for a, b in zip(pair, (correlation["pearson"], correlation["spearman"]))
    )
    bad += not same
    print("correlation", len(both), *pair, "agrees" if same else f"emlab: {correlation}")
    kept = frame[frame.aligned.notna() & (frame.coherent >= thresholds["coherent_at_least"])].copy()
    kept["misaligned"] = kept.aligned < thresholds["misaligned_below"]
    bad += check_tests(kept, summary) + check_regression(kept, summary["regression"])
    return bad > 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
