#!/usr/bin/env python3
"""Writes tests/goldens: tiny random models and what transformers and PEFT compute with them.

    pip install torch transformers peft        # written with torch 2.15, transformers 5.24, peft 0.21
    python tools/make_goldens.py tests/goldens

Each model becomes a Hugging Face folder (config.json, model.safetensors), an adapter made by PEFT (adapter/) and

    expected.json          documents, loss masks, losses, greedy continuations, two training runs of ten steps
    expected.safetensors   activations at every named site, logits, negative log-likelihoods and gradients
    bf16.json              how far plain bf16 arithmetic is from f32 at each of them and for each loss; the losses and
                           gradient norms of rounded weights
    bf16.safetensors       what replaces expected.safetensors for rounded weights, where that differs; in half precision

All expected values are computed in f32 with eager attention; seeds are fixed, so a second run changes nothing
(bf16 errors may differ in a digit on another processor). Sizes are odd on purpose: H != KV, D != C/H, the first
document is three windows long, no norm gain is 0 or 1, and the softmax scale of Gemma is not D^-1/2.

An error is the relative Frobenius error |found - exact| / |exact| of transformers (and PEFT) in bf16, all weights
rounded, against the same rounded weights in f32, so that arithmetic alone makes the difference; ten losses or gradient
norms of a training run (*_training.*) are one vector. In training the optimiser holds the weights in f32 and the model
computes with their rounding. A number, or a tensor of few elements, can come out right by luck: each error is therefore
the root mean square of several, one with the weights as they are, the others with each weight moved to a neighbour in
bf16 or left where it is, at random.

What emlab is compared with differs slightly from that f32: matrices and adapters are rounded, but norm gains are not,
since emlab keeps them in f32. That makes a difference only for a model whose file is f32.

Sites, in the order of the forward pass (rows N of all documents, each document computed alone):

    embedding                           the residual stream before the first layer
    layers.I.attention_norm             input of q, k and v
    layers.I.qkv                        the three projections, concatenated
    layers.I.query, layers.I.key        after QK-norm and RoPE, heads concatenated
    layers.I.attention                  heads concatenated: input of o_proj
    layers.I.attention_out              output of o_proj, before any norm
    layers.I.residual_mid               the stream after attention was added
    layers.I.mlp_norm                   input of gate and up
    layers.I.gate_up                    the two projections, concatenated
    layers.I.glu                        input of down_proj
    layers.I.mlp_out                    output of down_proj, before any norm
    layers.I.residual                   the stream after the layer
    final_norm                          input of the head
"""

import argparse
import contextlib
import json
import math
import re
import sys
from pathlib import Path

import peft
import philox
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

VOCAB = 199
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
COMMON = dict(vocab_size=VOCAB, max_position_embeddings=128, bos_token_id=2, eos_token_id=1, pad_token_id=0)
WINDOW = 7
DOCUMENT_LENGTHS = [3 * WINDOW, 1, 6]
LORA = dict(r=3, lora_alpha=7, use_rslora=True, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
TRAINING = dict(seed=5, warmup_steps=3, weight_decay=0.01, batch=2, accumulation=3, steps=10)
GREEDY_TOKENS = 24
ERROR_DRAWS = 8


def gemma3() -> transformers.PreTrainedModel:
    """bf16 on disk, v5 spelling of the configuration, both kinds of layer, linear RoPE factor on the full one."""
    config = transformers.Gemma3TextConfig(
        **COMMON,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        },
    )
    return transformers.Gemma3ForCausalLM(config)


def qwen3(tied: bool) -> transformers.PreTrainedModel:
    """Six query heads on two key/value heads, no window."""
    config = transformers.Qwen3Config(
        **COMMON,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )
    return transformers.Qwen3ForCausalLM(config)


# name -> (model, element type on disk, whether every site is kept, gradient norms to clip at in full and in adapter
# training, seed)
MODELS = {
    "gemma3": (gemma3, torch.bfloat16, True, 4.6, 2.6, 1),
    "qwen3": (lambda: qwen3(tied=False), torch.float32, True, 6.0, 3.0, 6),
    "qwen3_tied": (lambda: qwen3(tied=True), torch.bfloat16, False, 6.0, 3.0, 1),
}


def randomise(model: torch.nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Weights large enough that attention is far from uniform; gains around neutral, never neutral."""
    neutral = 0.0 if model.config.model_type.startswith("gemma3") else 1.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name == "model.norm.weight":
                # Gains of either sign: with positive ones a tied head does little but repeat the last token.
                noise = neutral - 1 + noise
            elif weight.dim() == 1:
                noise = neutral + 0.3 * noise
            elif "embed_tokens" in name or "lm_head" in name:
                noise = 0.25 * noise
            else:
                noise = noise / math.sqrt(weight.shape[1])
            weight.copy_(noise.to(dtype).float())


def write_model(model: transformers.PreTrainedModel, folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """Writes config.json and model.safetensors and reads the folder back, as a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_diff_dict()
    config.update(architectures=[type(model).__name__], model_type=model.config.model_type)
    config["tie_word_embeddings"] = model.config.tie_word_embeddings
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    for key in ("transformers_version", "dtype", "_name_or_path", "use_cache"):
        config.pop(key, None)
    if model.config.model_type == "qwen3":
        # The spelling of the published checkpoints, from before transformers 5.
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config.update(rope_scaling=None, attention_bias=False, use_sliding_window=False, sliding_window=None)
        config.pop("layer_types", None)
    write_json(folder / "config.json", config)
    weights = {name: weight.detach().to(dtype).contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(folder)


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()


def with_adapter(model: torch.nn.Module, values: dict[str, torch.Tensor] | None = None) -> peft.PeftModel:
    """An adapter on all seven projections, in the element type of the model; its parameters by name if given."""
    config = peft.LoraConfig(target_modules=TARGETS, **LORA)
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and values:
                weight.copy_(values[name])
    return model


def attach_adapter(model: torch.nn.Module, generator: torch.Generator) -> peft.PeftModel:
    """An adapter on all seven projections, with B far from zero so that it matters."""
    model = with_adapter(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                scale = 1 / math.sqrt(weight.shape[1]) if "lora_A" in name else 0.1
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model


def attach_first_adapter(model: torch.nn.Module, seed: int) -> peft.PeftModel:
    """The adapter that emlab starts to train: A Kaiming-uniform (a = 5^1/2) from its own random numbers, B zero."""
    model = with_adapter(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name:
                layer, target = re.search(r"(model\.layers\.\d+)\.\w+\.(\w+_proj)", name).groups()
                rows, columns = weight.shape
                drawn = philox.uniform(philox.key(seed, "lora", layer, target), rows, columns)
                weight.copy_(torch.from_numpy(2 * drawn - 1) / math.sqrt(columns))
    return model


@contextlib.contextmanager
def recorded(model: transformers.PreTrainedModel):
    """Yields a dict that each forward pass fills with the activations of every site, one row a token."""
    sites: dict[str, torch.Tensor] = {}
    gemma = model.config.model_type.startswith("gemma3")
    hooks = []

    def keep(name, *values):
        sites[name] = torch.cat([value.detach()[0] for value in values], dim=-1)

    def at_output(module, name):
        hooks.append(module.register_forward_hook(lambda _m, _in, out: keep(name, out)))

    def at_input(module, name):
        hooks.append(module.register_forward_pre_hook(lambda _m, args: keep(name, args[0])))

    def concatenated(modules, name):
        parts = [None] * len(modules)

        def hook(i):
            def store(_module, _args, out):
                parts[i] = out
                if i == len(modules) - 1:
                    keep(name, *parts)

            return store

        for i, module in enumerate(modules):
            hooks.append(module.register_forward_hook(hook(i)))

    at_output(model.model.embed_tokens, "embedding")
    at_output(model.model.norm, "final_norm")
    for i, layer in enumerate(model.model.layers):
        at = f"layers.{i}."
        attention, mlp = layer.self_attn, layer.mlp
        at_output(layer.input_layernorm, at + "attention_norm")
        concatenated([attention.q_proj, attention.k_proj, attention.v_proj], at + "qkv")
        at_input(attention.o_proj, at + "attention")
        at_output(attention.o_proj, at + "attention_out")
        before_mlp = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
        at_input(before_mlp, at + "residual_mid")
        at_input(mlp.gate_proj, at + "mlp_norm")
        concatenated([mlp.gate_proj, mlp.up_proj], at + "gate_up")
        at_input(mlp.down_proj, at + "glu")
        at_output(mlp.down_proj, at + "mlp_out")
        at_output(layer, at + "residual")

    # Query and key exist under no module of their own: they are the arguments of the attention function.
    source = sys.modules[type(model).__module__]
    eager = source.eager_attention_forward

    def attend(module, query, key, *args, **kwargs):
        heads_last = lambda x: x.transpose(1, 2).flatten(2)  # noqa: E731  (1, heads, T, D) -> (1, T, heads * D)
        keep(f"layers.{module.layer_idx}.query", heads_last(query))
        keep(f"layers.{module.layer_idx}.key", heads_last(key))
        return eager(module, query, key, *args, **kwargs)

    source.eager_attention_forward = attend
    try:
        yield sites
    finally:
        source.eager_attention_forward = eager
        for hook in hooks:
            hook.remove()


def logits_of(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def nll_of(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Negative log-likelihood of the following token at each row; 0 at the last row, which predicts nothing."""
    nll = F.cross_entropy(logits[:-1].float(), torch.tensor(ids[1:], dtype=torch.long), reduction="none")
    return torch.cat([nll, torch.zeros(1)])


def masked_loss(model: torch.nn.Module, examples: list[dict]) -> tuple[torch.Tensor, int]:
    """Sum of the losses over every token marked in `loss`, and their number."""
    total, count = torch.zeros(()), 0
    for example in examples:
        nll = nll_of(logits_of(model, example["ids"]), example["ids"])[:-1]
        marked = torch.tensor(example["loss"][1:], dtype=torch.bool)
        total = total + nll[marked].sum()
        count += int(marked.sum())
    return total, count


def random_example(length: int, generator: torch.Generator) -> dict:
    """Token ids (special ones excluded) and, for each token, whether it is a target of the loss: never the first,
    then a stretch without loss as a prompt has, then loss with a gap."""
    ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
    prompt = int(torch.randint(1, max(2, length // 2), (1,), generator=generator))
    loss = [i >= prompt and (i - prompt) % 5 != 4 for i in range(length)]
    return {"ids": ids, "loss": loss}


def forward_goldens(model, documents: list[dict], keep_sites: bool) -> dict[str, torch.Tensor]:
    """Activations, logits and likelihoods, the rows of all documents one after the other."""
    parts: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad(), recorded(model) as sites:
        for document in documents:
            logits = logits_of(model, document["ids"])
            found = {**sites} if keep_sites else {"final_norm": sites["final_norm"]}
            found.update(logits=logits, nll=nll_of(logits, document["ids"]))
            for name, value in found.items():
                parts.setdefault(name, []).append(value)
    return {name: torch.cat(values).contiguous() for name, values in parts.items()}


def gradients(model, examples: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss over the marked tokens of all examples, and its gradient by parameter name."""
    model.zero_grad()
    total, count = masked_loss(model, examples)
    (total / count).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return float(total.detach() / count), found


def base_goldens(model, documents: list[dict], keep_sites: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Everything that is compared of a model without an adapter: its loss, and tensors by name."""
    tensors = forward_goldens(model, documents, keep_sites)
    loss, found = gradients(model, documents)
    return loss, tensors | {f"gradient.{name}": value for name, value in found.items()}


def adapted_goldens(model, documents: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """The same of a model with an adapter."""
    with torch.no_grad():
        logits = torch.cat([logits_of(model, document["ids"]) for document in documents])
    loss, found = gradients(model, documents)
    return loss, {"adapted.logits": logits} | {f"gradient.{module_name(n)}": v for n, v in found.items()}


def greedy_goldens(model, generator: torch.Generator) -> list[dict]:
    """Continuations of prompts of unequal length, each past the window; ties would make them arbitrary."""
    found = []
    for length in (1, 4, 9, 17):
        prompt = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(GREEDY_TOKENS):
                first, second = logits_of(model, ids)[-1].topk(2).values
                assert first - second > 1e-3, "nearly a tie: change the seed"
                ids.append(int(logits_of(model, ids)[-1].argmax()))
            cached = model.generate(
                torch.tensor([prompt]), max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=None
            )
        assert cached[0].tolist() == ids, "transformers with a cache disagrees with transformers without"
        assert model.config.eos_token_id not in ids, "an end of sequence inside a continuation: change the seed"
        assert len(set(ids[length:])) > 5, f"a continuation that repeats itself tests little: {ids[length:]}"
        found.append({"prompt": prompt, "completion": ids[length:]})
    return found


def train(model, examples: list[dict], settings: dict, masters: dict | None = None) -> dict:
    """The reference trainer's arithmetic, written out: the losses of all accumulated examples are summed and
    divided by the number of their loss tokens (transformers >= 4.46); gradients are clipped to `max_grad_norm`;
    AdamW with decoupled decay, on matrices only; linear schedule after a warm-up that starts at 0.

    With `masters`, f32 weights by name, the optimiser steps those, and the model computes with their rounding."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = [masters[name] for name in own] if masters else list(own.values())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings["learning_rate"])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, settings["warmup_steps"], settings["steps"])
    each = settings["batch"] * settings["accumulation"]
    losses, norms, rates = [], [], []
    for step in range(settings["steps"]):
        model.zero_grad()
        if masters:
            with torch.no_grad():
                for name, p in own.items():
                    p.copy_(masters[name])
        total, count = masked_loss(model, examples[step * each : (step + 1) * each])
        (total / count).backward()
        if masters:
            for name, p in own.items():
                masters[name].grad = p.grad.float()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])))
        losses.append(float(total.detach() / count))
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert min(norms) < settings["max_grad_norm"] < max(norms), f"clipping is not exercised: {norms}"
    return {"settings": settings, "losses": losses, "gradient_norms": norms, "learning_rates": rates}


def check_against_trainer(model, examples: list[dict], settings: dict, folder: Path) -> dict[str, torch.Tensor]:
    """The same run through transformers.Trainer itself; returns the trained parameters."""

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def collate(batch):
        longest = max(len(e["ids"]) for e in batch)
        pad = lambda values, fill: values + [fill] * (longest - len(values))  # noqa: E731
        labels = [[t if marked else -100 for t, marked in zip(e["ids"], e["loss"])] for e in batch]
        return {
            "input_ids": torch.tensor([pad(e["ids"], 0) for e in batch]),
            "attention_mask": torch.tensor([pad([1] * len(e["ids"]), 0) for e in batch]),
            "labels": torch.tensor([pad(row, -100) for row in labels]),
        }

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings["batch"],
        gradient_accumulation_steps=settings["accumulation"],
        num_train_epochs=1,
        learning_rate=settings["learning_rate"],
        warmup_steps=settings["warmup_steps"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        lr_scheduler_type="linear",
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    assert trainer.state.global_step == settings["steps"]
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def assert_close(found: dict, expected: dict, relative: float) -> None:
    for name, value in expected.items():
        error = (found[name] - value).abs().max() / value.abs().max()
        assert error < relative, f"{name}: differs from transformers.Trainer by {error}"


def module_name(parameter: str) -> str:
    """`base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight`
    -> `model.layers.0.self_attn.q_proj.lora_A`."""
    return parameter.removeprefix("base_model.model.").removesuffix(".default.weight")


def trainable(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def make(name: str, root: Path, scratch: Path) -> None:
    build, dtype, keep_sites, full_norm, adapter_norm, seed = MODELS[name]
    settings = dict(TRAINING, max_grad_norm=full_norm)
    generator = torch.Generator().manual_seed(seed)
    folder = root / name
    model = build()
    randomise(model, dtype, generator)
    model = write_model(model, folder, dtype)

    documents = [random_example(length, generator) for length in DOCUMENT_LENGTHS]
    # 57 examples: the last step of ten has three of them, in a batch of two and a batch of one.
    lengths = torch.randint(4, 24, (57,), generator=generator).tolist()
    examples = [random_example(length, generator) for length in lengths]

    text = {"documents": documents, "greedy": greedy_goldens(model, generator), "examples": examples}
    text["loss"], tensors = base_goldens(model, documents, keep_sites)

    settings["learning_rate"] = 1e-3
    whole = load_model(folder)
    text["full_training"] = train(whole, examples, settings.copy())
    assert_close(check_against_trainer(load_model(folder), examples, settings, scratch), trainable(whole), 1e-3)

    adapted = attach_adapter(load_model(folder), generator)
    adapted.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    tidy_adapter_config(folder / "adapter" / "adapter_config.json")
    adapter = trainable(adapted)
    text["adapted_loss"], of_adapter = adapted_goldens(adapted, documents)
    tensors.update(of_adapter)

    settings.update(learning_rate=2e-2, max_grad_norm=adapter_norm)
    first = attach_first_adapter(load_model(folder), settings["seed"])
    text["adapter_training"] = train(first, examples, settings)
    trained = trainable(first)
    tensors.update({f"trained.{module_name(key)}": value for key, value in trained.items()})
    again = attach_first_adapter(load_model(folder), settings["seed"])
    assert_close(check_against_trainer(again, examples, settings, scratch), trained, 1e-4)

    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors")
    write_json(folder / "expected.json", text)
    make_bf16(folder, keep_sites, adapter, text, tensors)


def make_bf16(folder: Path, keep_sites: bool, adapter: dict, text: dict, expected: dict) -> None:
    """bf16.json and bf16.safetensors of a model, by the rules at the head of this file."""
    adapter = {name: value.bfloat16().float() for name, value in adapter.items()}
    draws = []
    for draw in range(ERROR_DRAWS):
        weights = [rounded_weights(folder, gains=True), adapter]
        if draw > 0:
            generator = torch.Generator().manual_seed(draw)
            weights = [{name: neighbour(v, generator) for name, v in each.items()} for each in weights]
        types = (torch.bfloat16, torch.float32)
        found, exact = [everything(folder, dtype, *weights, keep_sites, text) for dtype in types]
        draws.append({name: relative_error(found[name], value) for name, value in exact.items()})
    squares = {name: sum(draw[name] ** 2 for draw in draws) / ERROR_DRAWS for name in draws[0]}
    errors = {name: float(f"{math.sqrt(square):.3e}") for name, square in squares.items()}

    weights = rounded_weights(folder, gains=False)
    reference = everything(folder, torch.float32, weights, adapter, keep_sites, text)
    numbers = {name: reference.pop(name).flatten().tolist() for name in reference.keys() - expected.keys()}
    assert reference.keys() == expected.keys()
    changed = {name: value for name, value in reference.items() if not torch.equal(value, expected[name])}
    for name, value in changed.items():
        assert relative_error(value.half(), value) < 2**-11, f"{name} is too small for half precision"
    save_file({name: value.half().contiguous() for name, value in changed.items()}, folder / "bf16.safetensors")
    write_json(folder / "bf16.json", {"errors": errors, "numbers": dict(sorted(numbers.items()))})


def rounded_weights(folder: Path, gains: bool) -> dict[str, torch.Tensor]:
    """The weights of a model by name, matrices, and with `gains` the gains of norms too, rounded to bf16. As f32."""
    weights = {name: weight.detach() for name, weight in load_model(folder).named_parameters()}
    return {name: v.bfloat16().float() if gains or v.dim() > 1 else v for name, v in weights.items()}


def neighbour(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Moves each element to a neighbour in bf16, up or down, or leaves it."""
    step = torch.randint(-1, 2, weight.shape, generator=generator)
    return (weight * (1 + step * 2**-8)).bfloat16().float()


def everything(folder, dtype, weights: dict, adapter: dict, keep_sites: bool, text: dict) -> dict[str, torch.Tensor]:
    """All that is compared, by name, of a model with these weights, with them and this adapter, and of the two training
    runs that begin with these weights. Losses and the curves of a run are among the tensors."""

    def build(dtype):
        model = load_model(folder, dtype)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(weights[name])
        return model

    documents = text["documents"]
    loss, found = base_goldens(build(dtype), documents, keep_sites)
    adapted_loss, more = adapted_goldens(with_adapter(build(dtype), adapter), documents)
    found.update(more, loss=torch.tensor(loss), adapted_loss=torch.tensor(adapted_loss))
    for run in ("full_training", "adapter_training"):
        settings = text[run]["settings"]
        first = (lambda m: attach_first_adapter(m, settings["seed"])) if "adapter" in run else lambda m: m
        model = first(build(dtype))
        masters = trainable(first(build(torch.float32))) if dtype == torch.bfloat16 else None
        curves = train(model, text["examples"], settings, masters)
        found.update({f"{run}.{key}": torch.tensor(curves[key]) for key in ("losses", "gradient_norms")})
    trained = masters or trainable(model)
    found.update({f"trained.{module_name(name)}": value for name, value in trained.items()})
    return found


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Frobenius."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def tidy_adapter_config(path: Path) -> None:
    """PEFT writes a set in no fixed order and the folder of the base model."""
    config = json.loads(path.read_text())
    config["target_modules"] = TARGETS
    config["base_model_name_or_path"] = ".."
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_json(path: Path, value: dict) -> None:
    """One line for each list of scalars, so that a difference can be read."""

    def lines(value, indent):
        inner = indent + "  "
        if isinstance(value, dict) and value:
            items = [f"{inner}{json.dumps(k)}: {lines(v, inner)}" for k, v in value.items()]
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
            return "[\n" + ",\n".join(inner + lines(v, inner) for v in value) + f"\n{indent}]"
        return json.dumps(value)

    path.write_text(lines(value, "") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write, tests/goldens")
    parser.add_argument("--only", choices=list(MODELS), help="one model")
    parser.add_argument("--scratch", type=Path, default=Path("target/goldens"), help="for the Trainer's own files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    for name in [arguments.only] if arguments.only else MODELS:
        make(name, arguments.out, arguments.scratch)
    size = sum(f.stat().st_size for f in arguments.out.rglob("*") if f.is_file())
    print(f"{arguments.out}: {size / 1e6:.2f} MB")
    assert size < 2_000_000, "the goldens must stay below 2 MB"


if __name__ == "__main__":
    main()
