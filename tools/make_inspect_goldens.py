#!/usr/bin/env python3
"""Singular values of the golden adapters' changes by numpy, for tests/inspect.rs.

    pip install numpy safetensors
    python3 tools/make_inspect_goldens.py        # writes tests/goldens/inspect.json
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


goldens = {family: dict(changes(GOLDENS / family / "adapter")) for family in ["gemma3", "qwen3"]}
(GOLDENS / "inspect.json").write_text(json.dumps(goldens, indent=1) + "\n")
