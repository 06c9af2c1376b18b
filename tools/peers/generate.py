#!/usr/bin/env python3
"""Sampling through transformers' generate with a static cache and a compiled step, on random weights.

    python3 tools/peers/generate.py --model qwen3-8b --batch 100 --csv generate.csv

The first call compiles, the second is timed. Temperature 1 over the whole vocabulary; every answer has full length.
"""

import argparse
import time

import torch

from random_model import append, build


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-8b", help="a card of models/")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--cache", default="static", choices=["static", "dynamic"])
    parser.add_argument("--csv", help="the table to append to")
    options = parser.parse_args()
    model = build(options.model).eval()
    ids = torch.randint(0, model.config.vocab_size - 300, (options.batch, options.prompt), device="cuda")
    settings = dict(attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    settings |= dict(max_new_tokens=options.new, min_new_tokens=options.new, pad_token_id=0)
    if options.cache == "static":
        settings["cache_implementation"] = "static"
    with torch.inference_mode():
        begun = time.perf_counter()
        model.generate(ids, **settings)
        torch.cuda.synchronize()
        print(f"first call, compiling: {time.perf_counter() - begun:.1f} s", flush=True)
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            out = model.generate(ids, **settings)
            torch.cuda.synchronize()
            seconds.append((time.perf_counter() - begun) / options.new)
    assert out.shape == (options.batch, options.prompt + options.new)
    case = f"B={options.batch} prompt={options.prompt} new={options.new}"
    rate = options.batch / sorted(seconds)[1]
    peak = torch.cuda.max_memory_allocated() / 2**30
    via = f"transformers generate: {options.cache} cache"
    append(options.csv, "sampling", options.model, case, via, seconds, f"{rate:.0f} tok/s; {peak:.1f} GiB")


if __name__ == "__main__":
    main()
