#!/usr/bin/env python3
"""Computes singular values of the golden adapters' ΔW, and linear classifiers, with numpy, for tests/inspect.rs and
tests/directions.rs.

    pip install numpy safetensors
    python3 tools/make_inspect_goldens.py        # writes tests/goldens/inspect.json and directions.json
"""

import json
from pathlib import Path

import numpy
from safetensors.numpy import load_file

GOLDENS = Path(__file__).resolve().parents[1] / "tests/goldens"
PREFIX = "base_model.model."


def changes(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    rank = config["r"]
    scale = config["lora_alpha"] / (numpy.sqrt(rank) if config["use_rslora"] else rank)
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in sorted(name for name in tensors if name.endswith(".lora_A.weight")):
        a = tensors[name].astype(numpy.float64)
        b = tensors[name.replace("lora_A", "lora_B")].astype(numpy.float64)
        change = scale * b @ a
        values = numpy.linalg.svd(change, compute_uv=False)[:rank]
        share = values**2 / (values**2).sum()
        share = share[share > 0]
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        yield module, {
            "norm": numpy.linalg.norm(change),
            "effective_rank": numpy.exp(-(share * numpy.log(share)).sum()),
            "singular_values": list(values),
        }


def held_out(w, x, positive, train, test):
    """By class, how many of `test` lie on the correct side of the midpoint between the class means of `train`."""
    scores = x @ w
    midpoint = (scores[train & positive].mean() + scores[train & ~positive].mean()) / 2
    right = (scores > midpoint) == positive
    return numpy.array([(right & test & ~positive).sum(), (right & test & positive).sum()])


def probe(x, positive, ridge):
    """Ridge regression of ±1 with an intercept that is not penalised, in the primal: (X'X + λ)⁻¹ X'y."""
    x = x - x.mean(0)
    penalty = ridge * (x**2).sum() / x.shape[1]
    return numpy.linalg.solve(x.T @ x + penalty * numpy.eye(x.shape[1]), x.T @ numpy.where(positive, 1.0, -1.0))


def directions(examples, channels, ridge, seed):
    random = numpy.random.default_rng(seed)
    positive = random.random(examples) < 0.4
    fold = numpy.arange(examples) % 4
    x = random.normal(size=(examples, channels)) * numpy.geomspace(0.3, 3, channels)
    x += 1.2 * positive[:, None] * random.normal(size=channels)
    x = x.astype(numpy.float32).astype(numpy.float64)
    hits = numpy.zeros((2, 2), int)
    for k in range(4):
        train, test = fold != k, fold == k
        difference = x[train & positive].mean(0) - x[train & ~positive].mean(0)
        hits[0] += held_out(difference, x, positive, train, test)
        hits[1] += held_out(probe(x[train], positive[train], ridge), x, positive, train, test)
    means = [x[positive].mean(0), x[~positive].mean(0)]
    difference, w = means[0] - means[1], probe(x, positive, ridge)
    w *= numpy.linalg.norm(difference) / numpy.linalg.norm(w)
    middle = (means[0] + means[1]) / 2
    return {
        "x": x.tolist(),
        "positive": positive.tolist(),
        "fold": fold.tolist(),
        "ridge": ridge,
        "accuracy": (hits / [(~positive).sum(), positive.sum()]).mean(1).tolist(),
        "vectors": [difference.tolist(), w.tolist()],
        "midpoints": [middle @ v / (v @ v) for v in (difference, w)],
        "cosine": difference @ w / (difference @ difference),
    }


# More examples than channels, and fewer.
classifiers = [directions(28, 5, 0.3, 3), directions(20, 30, 1.0, 5)]
(GOLDENS / "directions.json").write_text(json.dumps(classifiers) + "\n")

goldens = {family: dict(changes(GOLDENS / family / "adapter")) for family in ["gemma3", "qwen3"]}
(GOLDENS / "inspect.json").write_text(json.dumps(goldens, indent=1) + "\n")
