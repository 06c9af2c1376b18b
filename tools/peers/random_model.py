"""Builds transformers models with random weights in the sizes of a card in models/, and appends rows to bench tables."""

import csv
import os
import re
import subprocess
import tomllib
from datetime import datetime, timezone
from pathlib import Path

import torch
import transformers

CARDS = Path(__file__).resolve().parents[2] / "models"
COLUMNS = (
    "op model case via ms ms_p10 ms_p90 runs gflop mbyte tflops tbs limit_percent copy_percent note precision gpu clock_mhz celsius"
    " date"
).split()


def build(card: str):
    """The model in bf16 on the GPU, with sdpa attention. Settings that a card does not hold do not affect the time."""
    sizes = tomllib.loads((CARDS / f"{card}.toml").read_text())["sizes"]
    known = dict(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["channels"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        intermediate_size=sizes["mlp_width"],
        tie_word_embeddings=sizes["tied"],
        attn_implementation="sdpa",
    )
    if "window" in sizes:
        config = transformers.Gemma3TextConfig(sliding_window=sizes["window"], **known)
        kind = transformers.Gemma3ForCausalLM
    else:
        config, kind = transformers.Qwen3Config(**known), transformers.Qwen3ForCausalLM
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = kind(config)
    torch.set_default_dtype(torch.float32)
    return model


def smi(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.check_output(command, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return ", "


def append(path: str | None, op: str, model: str, case: str, via: str, seconds: list[float], note: str) -> None:
    """Prints a row, and appends it to the table."""
    times = sorted(1e3 * s for s in seconds)
    ms, last = times[len(times) // 2], len(times) - 1
    clock, celsius = smi("clocks.sm,temperature.gpu").split(", ")
    print(f"{op} {model} {case}, {via}: {ms:.1f} ms, {note} ({clock} MHz, {celsius} °C)", flush=True)
    if path is None:
        return
    row = dict(op=op, model=model, case=case, via=via, ms=f"{ms:.4f}", ms_p10=f"{times[(last + 5) // 10]:.4f}")
    row |= dict(ms_p90=f"{times[(last * 9 + 5) // 10]:.4f}", runs=len(times), note=re.sub("[,\n]+", ";", note))
    row |= dict(precision="bf16", gpu=torch.cuda.get_device_name(), clock_mhz=clock, celsius=celsius)
    row |= dict(date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ"))
    new = not os.path.exists(path)
    with open(path, "a", newline="") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            out.writeheader()
        out.writerow(row)
