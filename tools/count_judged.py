#!/usr/bin/env python3
"""Counts a judged table with pandas, independently of emlab, and compares with emlab's summary.json.

    emlab analyze TABLE.csv --out OUT
    python3 tools/count_judged.py TABLE.csv OUT/summary.json

Prints the counts by condition and format; exit status 1 if any count differs or a rate or interval differs by more
than 1e-6 relative. Needs pandas and statsmodels.
"""

import json
import sys

import pandas
from scipy.stats import pearsonr, spearmanr
from statsmodels.stats.proportion import proportion_confint


def main(table, summary):
    frame = pandas.read_csv(table)
    summary = json.load(open(summary))
    thresholds = summary["thresholds"]
    frame["format"] = frame.question_id.map(
        lambda name: name.rsplit("_", 1)[-1] if name.endswith(("_json", "_template")) else "natural"
    )
    frame["condition"] = frame["group"] if "group" in frame else summary["by_condition"][0]["condition"]
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
    return bad > 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
