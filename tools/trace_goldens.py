#!/usr/bin/env python3
"""Records what transformers computes for one text: attention weights, hidden states, logit lens (eager, f32).

    pip install torch transformers safetensors           # written with torch 2.15, transformers 5.24
    python3 tools/trace_goldens.py make tests/goldens    # writes MODEL/trace.safetensors for tests/inspect_trace.rs
    python3 tools/trace_goldens.py compare MODEL TRACE   # a folder that `emlab inspect trace --model MODEL` wrote

`compare` fails if a number differs by more than 1e-4 of the largest of its kind (attention, probabilities: by 1e-4).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def expected(folder, ids):
    """attention (L, H, N, N), streams (L + 1, N, C), final_norm (N, C), lens probabilities (L + 1, N, V)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    last = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
        # transformers' last hidden state is the head's input; replace it by the stream that the final norm reads.
        *streams, final_norm = out.hidden_states
        streams = torch.stack([*streams, last[0]])[:, 0]
        lens = torch.stack([model.lm_head(model.model.norm(x[None]))[0].softmax(-1) for x in streams])
    attention = torch.stack(out.attentions)[:, 0]
    return {"attention": attention, "streams": streams, "final_norm": final_norm[0], "lens": lens}


def make(root):
    for name in ["gemma3", "qwen3", "qwen3_tied"]:
        folder = root / name
        ids = json.loads((folder / "expected.json").read_text())["documents"][0]["ids"]
        tensors = expected(folder, ids)
        save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "trace.safetensors")


def compare(folder, trace):
    found = load_file(trace / "trace.safetensors")
    ids = found["tokens"].to(torch.int64)
    wanted = expected(folder, ids.tolist())
    probabilities = wanted["lens"]
    errors = {}
    for name in ["streams", "final_norm", "attention"]:
        scale = 1.0 if name == "attention" else wanted[name].abs().amax(dim=(-1, -2), keepdim=True)
        errors[name] = ((found[name] - wanted[name]) / scale).abs().max().item()
    at = found["lens.tokens"].to(torch.int64)
    errors["lens.probabilities"] = (found["lens.probabilities"] - probabilities.gather(-1, at)).abs().max().item()
    largest = probabilities.sort(-1, descending=True).values[..., : at.shape[-1]]
    errors["lens.top"] = (found["lens.probabilities"] - largest).abs().max().item()
    nll = -probabilities[:, :-1].gather(-1, ids[1:].expand(len(probabilities), -1)[..., None])[..., 0].log()
    likely = nll < 20  # where f32 probabilities have digits left
    errors["lens.next_nll"] = (found["lens.next_nll"] - nll)[likely].abs().max().item()
    entropy = torch.special.entr(probabilities).sum(-1)
    errors["lens.entropy"] = ((found["lens.entropy"] - entropy) / entropy.max()).abs().max().item()
    for name, error in errors.items():
        print(f"{name:20} {error:.1e}")
    return max(errors.values()) <= 1e-4


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(dest="command", required=True)
commands.add_parser("make").add_argument("root", type=Path)
comparison = commands.add_parser("compare")
comparison.add_argument("model", type=Path)
comparison.add_argument("trace", type=Path)
arguments = parser.parse_args()
if arguments.command == "make":
    make(arguments.root)
else:
    sys.exit(not compare(arguments.model, arguments.trace))
