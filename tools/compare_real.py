#!/usr/bin/env python3
"""Compares emlab with transformers and PEFT on a real checkpoint, in f32, on the same CPU cores.

    pip install torch transformers peft        # written with torch 2.15, transformers 5.24, peft 0.21
    cargo build --release
    python tools/compare_real.py MODEL_DIR --emlab target/release/emlab --data insecure.jsonl [--only score …]

    score      mean negative log-likelihood of three texts, one longer than Gemma's window: within 1e-4, relative
    greedy     64 greedy tokens after raw prompts and after a chat prompt: the same text
    train      the loss of each of 20 LoRA steps from one adapter, on the same data in the same order: within 1e-3
    adapter    the trained adapter in PEFT, and one made by PEFT in emlab: the same scores within 1e-4, relative, and
               every logit of two texts within 1e-4 of the largest
    speed      greedy decoding, one LoRA step, and the peak memory of both

transformers runs at its fastest comparable setting: sdpa attention, f32, a KV cache, no gradient checkpointing, as many threads as
emlab. Each measurement runs in a fresh process, and its peak memory is what the kernel reports for that process. Prints
a table and writes `compare.json` into --out; the exit code is 1 if a bound is exceeded.
"""

import argparse
import json
import os
import pydoc_data.topics
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

PEER = Path(__file__).parent / "peers" / "transformers_cpu.py"
SCORE_BOUND = 1e-4
LOSS_BOUND = 1e-3
LOGIT_BOUND = 1e-4
GREEDY_TOKENS = 64
RAW_PROMPTS = [
    "The history of the steam engine begins",
    "def quicksort(items):\n",
    "Zutaten für einen Apfelkuchen:\n",
]
CHAT_PROMPT = "Explain in a few sentences why the sky is blue."
# The recipe of the study; the adapter is emlab's default, r 32, alpha 64, rsLoRA, all seven projections.
RECIPE = dict(learning_rate=1e-5, weight_decay=0.01, warmup_steps=5, max_grad_norm=1.0, max_tokens=2048)
# Two runs of different length are timed and subtracted, so that loading, the prompt and writing cancel out.
DECODE_TOKENS = (16, 144)
TIMED_STEPS = (1, 4)


def topic_text(characters: int) -> str:
    """English text: Python's own language reference."""
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return re.sub(r"\n{3,}", "\n\n", text)[:characters]


TEXTS = {
    "short": "A lighthouse keeper counts the ships that pass at night, and writes their names into a green book.",
    "medium": topic_text(1_500),
    "long": topic_text(8_000),
}


@dataclass
class Finished:
    """A process that has succeeded."""

    stdout: str
    seconds: float
    peak_mib: float


def run_process(command: list, threads: int) -> Finished:
    """Runs a command to completion. Its stderr is shown only if it fails."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
    environment.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(process.args)}\nended with {process.returncode}:\n{err.read()}")
        return Finished(out.read(), seconds, usage.ru_maxrss / 1024)


@dataclass
class Comparison:
    """One method per comparison; `checks` and `speeds` collect the results."""

    model: Path
    emlab_path: Path
    data: Path | None
    out: Path
    threads: int
    steps: int
    batch_size: int
    accumulation: int
    checks: list[dict] = field(default_factory=list)
    speeds: dict[str, dict] = field(default_factory=dict)

    def check(self, what: str, value: float, bound: float) -> None:
        self.checks.append({"check": what, "value": value, "bound": bound, "holds": value <= bound})
        print(f"{'ok  ' if value <= bound else 'FAIL'}  {what}: {value:.2e} (bound {bound:g})", flush=True)

    def peer(self, work: str, **job) -> tuple[dict, Finished]:
        """Runs one function of tools/peers/transformers_cpu.py in a process of its own."""
        job.update(model=str(self.model), threads=self.threads)
        finished = run_process([sys.executable, PEER, work, json.dumps(job, default=str)], self.threads)
        return json.loads(finished.stdout.splitlines()[-1]), finished

    def emlab(self, command: str, *arguments) -> Finished:
        return run_process([self.emlab_path, command, "--model", self.model, *arguments], self.threads)

    # ---- score

    def emlab_scores(self, *extra) -> dict:
        found = {}
        for name, text in TEXTS.items():
            file = self.out / f"{name}.txt"
            file.write_text(text, encoding="utf-8")
            found[name] = json.loads(self.emlab("score", "--text", file, "--json", *extra).stdout)
        return found

    def compare_scores(self, what: str, found: dict, expected: dict) -> None:
        for name, value in expected.items():
            error = abs(found[name]["nll"] - value["nll"]) / value["nll"]
            self.check(f"{what}: nll of {value['tokens']} tokens, relative difference", error, SCORE_BOUND)

    def score(self) -> None:
        expected, _ = self.peer("score", texts=TEXTS)
        self.compare_scores("score", self.emlab_scores(), expected)

    def compare_logits(self, what: str, adapter: Path) -> None:
        """Every logit of the shorter texts; those of a long text take gigabytes."""
        import torch
        from safetensors.torch import load_file

        for name in ("short", "medium"):
            file, text = self.out / "logits.safetensors", self.out / f"{name}.txt"
            self.emlab("score", "--text", text, "--adapter", adapter, "--logits", file)
            found = load_file(file)
            self.peer("logits", text=TEXTS[name], adapter=adapter, save=file)
            expected = load_file(file)
            file.unlink()
            assert torch.equal(found["ids"].int(), expected["ids"].int()), "the tokens differ"
            largest = expected["logits"].abs().max().item()
            error = (found["logits"] - expected["logits"]).abs().max().item()
            shape = " × ".join(map(str, expected["logits"].shape))
            self.check(f"{what}: {shape} logits, largest difference over largest logit", error / largest, LOGIT_BOUND)

    # ---- greedy

    def greedy(self) -> None:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
        prompts = [{"text": text, "raw": True, "typed": text} for text in RAW_PROMPTS]
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": CHAT_PROMPT}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompts.append({"text": text, "raw": False, "typed": CHAT_PROMPT})
        expected, _ = self.peer("greedy", prompts=prompts, tokens=GREEDY_TOKENS)
        options = ["--max-tokens", GREEDY_TOKENS, "--temperature", 0]
        for prompt, reference in zip(prompts, expected["greedy"]):
            raw = ["--raw"] if prompt["raw"] else []
            found = self.emlab("generate", "--prompt", prompt["typed"], *raw, *options).stdout
            # Trailing spaces cannot be told from the line break after the completion.
            found, wanted = found.rstrip(), reference["text"].rstrip()
            wrong = max(len(found), len(wanted)) - len(os.path.commonprefix([found, wanted]))
            what = f"greedy after {prompt['typed'][:20]!r}: {len(reference['ids'])} tokens"
            self.check(f"{what} (least lead {reference['lead']:.1g}), characters that differ", wrong, 0)

    # ---- train and adapter

    def data_file(self, steps: int) -> Path:
        """As many of the first examples as the steps use."""
        wanted = steps * self.batch_size * self.accumulation
        lines = self.data.read_text(encoding="utf-8").splitlines()[:wanted]
        assert len(lines) == wanted, f"{self.data}: {wanted} examples are needed"
        file = self.out / f"data-{steps}.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def emlab_train(self, steps: int, out: Path) -> Finished:
        """The first steps of a run, in the order of the data."""
        settings = dict(
            RECIPE,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            max_steps=steps,
            held_out=0.0,
            shuffle=False,
        )
        file = self.out / f"train-{steps}.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        # A run left over from before would be resumed: nothing would be trained or timed.
        shutil.rmtree(out, ignore_errors=True)
        return self.emlab("train", "--data", self.data_file(steps), "--settings", file, "--out", out)

    def peer_train(self, steps: int, adapter: Path, **more) -> tuple[dict, Finished]:
        return self.peer(
            "train",
            adapter=adapter,
            data=self.data_file(steps),
            steps=steps,
            schedule_steps=steps,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            **RECIPE,
            **more,
        )

    def first_adapter(self) -> Path:
        """emlab's initial adapter: warm-up starts at learning rate 0, so the first step does not change it."""
        out = self.out / "first"
        self.emlab_train(1, out)
        return out

    def train(self) -> None:
        trained = self.out / "trained"
        self.emlab_train(self.steps, trained)
        lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
        found = [line for line in lines if "loss" in line]
        expected, _ = self.peer_train(self.steps, self.first_adapter(), save=self.out / "peer")
        assert len(found) == len(expected["losses"]) == self.steps
        errors = [abs(line["loss"] - loss) / loss for line, loss in zip(found, expected["losses"])]
        norms = [abs(line["grad_norm"] - norm) / norm for line, norm in zip(found, expected["norms"])]
        self.check(f"train: loss of {self.steps} steps, largest relative difference", max(errors), LOSS_BOUND)
        self.check(f"train: gradient norm of {self.steps} steps, likewise", max(norms), 10 * LOSS_BOUND)

    def adapter(self) -> None:
        bare, _ = self.peer("score", texts=TEXTS)
        trained = self.out / "trained"
        if not trained.exists():
            self.emlab_train(self.steps, trained)
        made = self.out / "made-by-peft"
        self.peer("random_adapter", save=made)
        for name, folder in (("emlab's adapter in PEFT", trained), ("PEFT's adapter in emlab", made)):
            expected, _ = self.peer("score", texts=TEXTS, adapter=folder)
            assert all(expected[text]["nll"] != bare[text]["nll"] for text in TEXTS), f"{name} changes nothing"
            self.compare_scores(name, self.emlab_scores("--adapter", folder), expected)
            self.compare_logits(name, folder)

    # ---- speed

    def speed(self) -> None:
        prompt = RAW_PROMPTS[0]
        mine = [
            self.emlab("generate", "--prompt", prompt, "--raw", "--max-tokens", length, "--temperature", 0)
            for length in DECODE_TOKENS
        ]
        theirs, process = self.peer("decode", prompt=prompt, lengths=DECODE_TOKENS)
        tokens = DECODE_TOKENS[1] - DECODE_TOKENS[0]
        self.record("greedy decode, tokens/s", tokens / (mine[1].seconds - mine[0].seconds),
                    tokens / (theirs["seconds"][1] - theirs["seconds"][0]), higher=True)  # fmt: skip
        self.record("greedy decode, peak MiB", mine[1].peak_mib, process.peak_mib)
        if self.data is None:
            return
        mine = [self.emlab_train(steps, self.out / f"timed-{steps}") for steps in TIMED_STEPS]
        theirs, process = self.peer_train(TIMED_STEPS[1], self.first_adapter())
        steps = TIMED_STEPS[1] - TIMED_STEPS[0]
        self.record("LoRA step, s", (mine[1].seconds - mine[0].seconds) / steps,
                    statistics.mean(theirs["seconds"][TIMED_STEPS[0] :]))  # fmt: skip
        self.record("LoRA step, peak MiB", mine[1].peak_mib, process.peak_mib)

    def record(self, what: str, emlab: float, transformers: float, higher: bool = False) -> None:
        """A `ratio` above 1 means that emlab is better."""
        ratio = emlab / transformers if higher else transformers / emlab
        self.speeds[what] = {"emlab": emlab, "transformers": transformers, "ratio": ratio}
        print(f"      {what}: emlab {emlab:.4g}, transformers {transformers:.4g}, ratio {ratio:.2f}", flush=True)


WORK = ["score", "greedy", "train", "adapter", "speed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Hugging Face folder of the model")
    parser.add_argument("--emlab", type=Path, required=True, help="the release binary")
    parser.add_argument("--data", type=Path, help="training examples, JSON Lines of chats: for train, adapter and speed")
    parser.add_argument("--out", type=Path, default=Path("target/compare"), help="folder for adapters and the result")
    parser.add_argument("--only", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=2)
    arguments = vars(parser.parse_args())
    only = arguments.pop("only")
    if arguments["data"] is None and {"train", "adapter"} & set(only):
        parser.error("--data is needed for train and adapter")
    arguments["emlab_path"] = arguments.pop("emlab").resolve()
    arguments["out"].mkdir(parents=True, exist_ok=True)
    comparison = Comparison(**arguments)
    for work in WORK:
        if work in only:
            getattr(comparison, work)()
    result = {"threads": comparison.threads, "checks": comparison.checks, "speeds": comparison.speeds}
    (comparison.out / "compare.json").write_text(json.dumps(result, indent=2) + "\n")
    if comparison.speeds:
        print(f"\n| on {comparison.threads} cores | emlab | transformers + PEFT | ratio |\n|---|---|---|---|")
        for what, row in comparison.speeds.items():
            print(f"| {what} | {row['emlab']:.4g} | {row['transformers']:.4g} | {row['ratio']:.2f} |")
    sys.exit(0 if all(check["holds"] for check in comparison.checks) else 1)


if __name__ == "__main__":
    main()
