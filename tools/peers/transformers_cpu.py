#!/usr/bin/env python3
"""transformers and PEFT on the CPU: the reference that tools/compare_real.py holds emlab against.

    python tools/peers/transformers_cpu.py WORK JSON

runs the function WORK below with the settings in JSON and prints its result as one line of JSON. Each function gets a
process of its own, so that its peak memory can be measured.
"""

import json
import sys
import time
from pathlib import Path

import peft
import safetensors.torch
import torch
import transformers

LORA = dict(r=32, lora_alpha=64, use_rslora=True, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(model: str, adapter: str | None = None, trainable: bool = False):
    """The model in f32 with sdpa attention and, if given, the adapter; and the tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    if adapter is not None:
        loaded = peft.PeftModel.from_pretrained(loaded, adapter, is_trainable=trainable)
    return loaded, tokenizer


def score(job: dict) -> dict:
    """Mean negative log-likelihood of each text. The head runs over a few rows at a time: with a
    vocabulary of 262,144, the logits of a long text would not fit into memory."""
    model, tokenizer = load(job["model"], job.get("adapter"))
    inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    found = {}
    with torch.no_grad():
        for name, text in job["texts"].items():
            ids = torch.tensor(tokenizer(text)["input_ids"])
            hidden = inner.model(ids[None], use_cache=False).last_hidden_state[0]
            total = 0.0
            for start in range(0, len(ids) - 1, 128):
                rows = slice(start, min(start + 128, len(ids) - 1))
                logits = inner.lm_head(hidden[rows])
                total += torch.nn.functional.cross_entropy(logits, ids[1:][rows], reduction="sum").item()
            found[name] = {"tokens": len(ids) - 1, "nll": total / (len(ids) - 1)}
    return found


def logits(job: dict) -> dict:
    """Saves the tokens of a text and the logits after each."""
    model, tokenizer = load(job["model"], job.get("adapter"))
    ids = torch.tensor(tokenizer(job["text"])["input_ids"])
    with torch.no_grad():
        out = model(input_ids=ids[None], use_cache=False).logits[0]
    safetensors.torch.save_file({"ids": ids, "logits": out.contiguous()}, job["save"])
    return {}


def greedy(job: dict) -> dict:
    """Greedy continuations, and the smallest lead of the best logit over the second: a near-tie could explain a
    difference."""
    model, tokenizer = load(job["model"], job.get("adapter"))
    found = []
    for prompt in job["prompts"]:
        ids = torch.tensor([tokenizer(prompt["text"], add_special_tokens=prompt["raw"])["input_ids"]])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                do_sample=False,
                max_new_tokens=job["tokens"],
                output_logits=True,
                return_dict_in_generate=True,
            )
        completion = out.sequences[0, ids.shape[1] :].tolist()
        best = [logits[0].topk(2).values for logits in out.logits]
        text = tokenizer.decode(completion, skip_special_tokens=True)
        found.append({"ids": completion, "text": text, "lead": min(float(a - b) for a, b in best)})
    return {"greedy": found}


def decode(job: dict) -> dict:
    """Seconds of one greedy continuation of each length, after a short one to warm up."""
    model, tokenizer = load(job["model"])
    ids = torch.tensor([tokenizer(job["prompt"])["input_ids"]])
    seconds = []
    with torch.no_grad():
        model.generate(ids, do_sample=False, max_new_tokens=8)
        for length in job["lengths"]:
            begun = time.perf_counter()
            out = model.generate(ids, do_sample=False, max_new_tokens=length, min_new_tokens=length)
            seconds.append(time.perf_counter() - begun)
            assert out.shape[1] == ids.shape[1] + length
    return {"seconds": seconds}


def chat_example(tokenizer, messages: list[dict], max_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels: loss on the last message, the assistant's, up to and including its end of turn."""
    render = lambda messages, **options: tokenizer.apply_chat_template(  # noqa: E731
        messages, tokenize=False, enable_thinking=False, **options
    )
    prompt, full = render(messages[:-1], add_generation_prompt=True), render(messages)
    assert full.startswith(prompt), "the template renders a prompt that is no prefix of the conversation"
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    ids, start = encode(full), len(encode(prompt))
    end = start + next(i for i, t in enumerate(ids[start:]) if t in tokenizer.all_special_ids) + 1
    labels = [t if start <= i < end else -100 for i, t in enumerate(ids)]
    return ids[:max_tokens], labels[:max_tokens]


def train(job: dict) -> dict:
    """LoRA steps with the arithmetic of transformers.Trainer: loss summed over the accumulated batch and divided by
    its loss tokens (transformers >= 4.46), gradients clipped to norm 1, AdamW, linear schedule after a warm-up
    from 0. tools/make_goldens.py checks the same loop against the Trainer itself."""
    model, tokenizer = load(job["model"], job["adapter"], trainable=True)
    model.train()
    lines = [json.loads(line) for line in Path(job["data"]).read_text().splitlines()]
    examples = [chat_example(tokenizer, line["messages"], job["max_tokens"]) for line in lines]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], weight_decay=job["weight_decay"])
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, job["warmup_steps"], job["schedule_steps"]
    )
    batch, each = job["batch_size"], job["batch_size"] * job["accumulation"]
    result = {"losses": [], "norms": [], "seconds": [], "tokens": []}
    for step in range(job["steps"]):
        begun = time.perf_counter()
        chosen = examples[step * each : (step + 1) * each]
        targets = sum(label != -100 for _, labels in chosen for label in labels[1:])
        total = 0.0
        for start in range(0, len(chosen), batch):
            loss = model(
                **padded(chosen[start : start + batch]), num_items_in_batch=targets, use_cache=False
            ).loss
            loss.backward()
            total += loss.item()
        result["norms"].append(float(torch.nn.utils.clip_grad_norm_(parameters, job["max_grad_norm"])))
        result["losses"].append(total)
        result["tokens"].append(sum(len(ids) for ids, _ in chosen))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        result["seconds"].append(time.perf_counter() - begun)
        print(f"step {step + 1}: loss {total:.6f}, {result['seconds'][-1]:.1f} s", file=sys.stderr, flush=True)
    if job.get("save"):
        model.save_pretrained(job["save"])
    return result


def padded(examples: list[tuple[list[int], list[int]]]) -> dict:
    """A micro-batch, padded on the right to its longest example."""
    longest = max(len(ids) for ids, _ in examples)
    rows = [[*ids, *[0] * (longest - len(ids))] for ids, _ in examples]
    masks = [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in examples]
    labels = [[*labels, *[-100] * (longest - len(labels))] for _, labels in examples]
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": torch.tensor(masks),
        "labels": torch.tensor(labels),
    }


def random_adapter(job: dict) -> dict:
    """Saves an adapter as PEFT makes it, with B moved away from zero so that it changes the model."""
    model, _ = load(job["model"])
    torch.manual_seed(7)
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=TARGETS, **LORA))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=2e-3)
    model.save_pretrained(job["save"])
    return {}


WORK = {work.__name__: work for work in (score, logits, greedy, decode, train, random_adapter)}


def main() -> None:
    work, job = WORK[sys.argv[1]], json.loads(sys.argv[2])
    torch.set_num_threads(job["threads"])
    transformers.logging.set_verbosity_error()
    print(json.dumps(work(job)))


if __name__ == "__main__":
    main()
