"""Loss masks of chats, token by token, against those of TRL's training templates.

    pip install ".[trl]"
    python simulations/objectives/masks_against_trl.py

TRL marks the assistant's part in templates of its own and asks transformers for the mask; plait locates it in the
models' templates as they are, and in TRL's. Conversations with and without a system's turn and with calls of tools, on
the tiny base's tokenizer. `results-masks.txt` is what it printed.
"""

from __future__ import annotations

from itertools import groupby, product, takewhile
from pathlib import Path

import trl
from transformers import AutoTokenizer

from plait.adapters import Task
from plait.data import as_dataset
from plait.errors import DataError
from plait.training.bases import locate_base
from plait.training.examples import IGNORED, tokenise

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
FAMILIES = ("llama3", "qwen2_5", "qwen3", "qwen3_instruct_2507", "gemma", "phi3")
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "  Hi there. "},
    {"role": "user", "content": "Two plus two?"},
    {"role": "assistant", "content": "It is four.\n\nNo more."},
    {"role": "user", "content": "Füße, 漢字?"},
    {"role": "assistant", "content": "漢字, Füße."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
CALLING = [
    *TALK[:3],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4", "tool_call_id": "abcdefghi", "name": "add"},
    TALK[3],
]
CONVERSATIONS = {"chat": (TALK, None), "system": ([SYSTEM, *TALK], None), "tools": (CALLING, TOOLS)}


def main() -> None:
    """Compare all."""
    tokenizer = AutoTokenizer.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)
    for family, (name, (messages, tools)) in product(FAMILIES, CONVERSATIONS.items()):
        training = (TEMPLATES / f"{family}_training.jinja").read_text()
        for kind, template in (("own", (TEMPLATES / f"{family}.jinja").read_text()), ("training", training)):
            tokenizer.chat_template = template
            data = as_dataset([{"messages": messages, **({"tools": tools} if tools else {})}])
            try:
                (ours,) = tokenise(
                    data.records, kind=data.kind, task=Task.CAUSAL_LM, labels=(), tokenizer=tokenizer, seq_len=4096
                )
            except DataError as error:
                print(f"{family:20} {name:7} {kind:9} refused: {str(error).partition(';')[0]}")
                continue
            theirs = tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=training, tokenize=True, return_dict=True,
                return_assistant_tokens_mask=True,
            )  # fmt: skip
            if ours.tokens.tolist() != theirs["input_ids"]:
                print(f"{family:20} {name:7} {kind:9} renders another text than TRL's template")
                continue
            mask, other = (ours.labels != IGNORED).tolist(), without_edges(tokenizer, **theirs)
            print(
                f"{family:20} {name:7} {kind:9} {'equal' if mask == other else 'DIFFERENT'}: {sum(mask)} of {len(mask)}"
            )


def without_edges(tokenizer, input_ids, assistant_masks, **_) -> list[bool]:
    """TRL's mask without the template's own line breaks at both ends of a turn, which no model has to write."""
    kept: list[bool] = []
    blank = [not tokenizer.decode([token]).strip() for token in input_ids]
    for counts, run in groupby(range(len(input_ids)), key=lambda at: bool(assistant_masks[at])):
        places = [*run]
        while counts and places and blank[places[0]]:
            kept.append(False)
            places.pop(0)
        after = len([*takewhile(blank.__getitem__, reversed(places))]) if counts else 0
        kept += [counts] * (len(places) - after) + [False] * after
    return kept


if __name__ == "__main__":
    main()
