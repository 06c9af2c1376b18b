#!/usr/bin/env python3
"""A LoRA step through transformers and PEFT, on random weights and tokens: tokens a second and peak memory.

    python3 tools/peers/lora_step.py --model qwen3-8b --csv steps.csv

Tries the settings that a careful user would, all with sdpa: adapters in bf16, like the base; adapters in f32 under
autocast, PEFT's default; flash or cuDNN attention; with and without checkpointing. With bf16 adapters, AdamW updates bf16
weights, which is faster but loses small updates; emlab keeps f32 master weights.
"""

import argparse
import contextlib
import gc
import time

import peft
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from random_model import append, build

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Element type of the adapters, attention backend, checkpointing.
SETTINGS = (
    (torch.bfloat16, SDPBackend.CUDNN_ATTENTION, False),
    (torch.bfloat16, SDPBackend.FLASH_ATTENTION, False),
    (torch.float32, SDPBackend.CUDNN_ATTENTION, False),
    (torch.bfloat16, SDPBackend.CUDNN_ATTENTION, True),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-8b", help="a card of models/")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2048, help="of each row of the batch")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--csv", help="the table to append to")
    options = parser.parse_args()
    base = build(options.model)
    vocabulary = base.config.vocab_size
    lora = peft.LoraConfig(
        r=options.rank, lora_alpha=64, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, lora, autocast_adapter_dtype=False)
    model.config.use_cache = False
    model.train()
    adapters = [p for p in model.parameters() if p.requires_grad]
    for dtype, attention, checkpointing in SETTINGS:
        for p in adapters:
            p.data = p.data.to(dtype)
            p.grad = None
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        optimizer = torch.optim.AdamW(adapters, lr=1e-5, fused=True)
        narrow = dtype == torch.float32
        cast = torch.autocast("cuda", torch.bfloat16) if narrow else contextlib.nullcontext()
        via = f"transformers + PEFT: {'f32 adapters under autocast' if narrow else 'bf16 adapters'}"
        via += f"; {attention.name.split('_')[0].lower()}{'; checkpointed' if checkpointing else ''}"
        seconds = []
        try:
            for _ in range(options.steps + 2):
                ids = torch.randint(0, vocabulary - 300, (options.batch, options.tokens), device="cuda")
                torch.cuda.synchronize()
                begun = time.perf_counter()
                # PyTorch itself skips a backend that does not support a shape.
                with cast, sdpa_kernel([attention, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
                    loss = model(input_ids=ids, labels=ids).loss
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - begun)
        except torch.OutOfMemoryError as error:
            print(f"{via}: {str(error)[:120]}", flush=True)
            continue
        seconds = sorted(seconds[2:])
        rate = options.batch * options.tokens / seconds[len(seconds) // 2]
        peak = torch.cuda.max_memory_allocated() / 2**30
        case = f"B={options.batch} T={options.tokens} R={options.rank}"
        append(options.csv, "lora step", options.model, case, via, seconds, f"{rate:.0f} tok/s; {peak:.1f} GiB")


if __name__ == "__main__":
    main()
