"""Which tokens of a conversation count, token by token, under the chat templates of six families of models.

The expected mask is made here without looking for anything: the conversation is put together by hand from the
templates' own parts, each known to be learned or not.
"""

import hashlib
import json
from pathlib import Path

import pytest

from plait.adapters import AdapterTask
from plait.data import Message, as_dataset
from plait.errors import DataError
from plait.training.examples import IGNORED, Example
from plait.training.tokenization import ExampleFormat, tokenise

TEMPLATES = Path(__file__).parent / "chat_templates"
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "Two plus two?"},
    {"role": "assistant", "content": "It is four."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
CALLING = [
    {"role": "user", "content": "Two plus two?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "4", "tool_call_id": "abcdefghi", "name": "add"},
    {"role": "assistant", "content": "It is four."},
]
# A conversation's text in parts, those that count between « and ».
LLAMA = (
    "{bos}<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«Hi there.<|eot_id|>»"
    "<|start_header_id|>user<|end_header_id|>\n\nTwo plus two?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«It is four.<|eot_id|>»"
)
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\n«Hi there.<|im_end|>»\n<|im_start|>user\nTwo plus two?<|im_end|>\n"
    "<|im_start|>assistant\n«It is four.<|im_end|>»\n"
)
# The last turn alone shows its (empty) thoughts, which the model has to write.
QWEN3 = CHATML.replace("«It is", "«<think>\n\n</think>\n\nIt is")
GEMMA = (
    "{bos}<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n«Hi there.<end_of_turn>»\n"
    "<start_of_turn>user\nTwo plus two?<end_of_turn>\n<start_of_turn>model\n«It is four.<end_of_turn>»\n"
)
# The text's own end is learned with the last turn alone.
PHI3 = (
    "<|user|>\nHello<|end|>\n<|assistant|>\n«Hi there.<|end|>»\n"
    "<|user|>\nTwo plus two?<|end|>\n<|assistant|>\n«It is four.<|end|>\n{eos}»"
)
# The system's turn is shown where the user speaks last, that is never here.
MISTRAL = "{bos}[INST] Hello[/INST]« Hi there.{eos}»[INST] Two plus two?[/INST]« It is four.{eos}»"
QWEN_TOOLS = (
    "<|im_start|>assistant«\n<tool_call>\n{{\"name\": \"add\", \"arguments\": {{\"a\": 2, \"b\": 2}}}}\n</tool_call>"
    "<|im_end|>»\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n«It is four.<|im_end|>»\n"
)  # fmt: skip


def made(tokenizer, template: str, *rows: dict[str, object], seq_len: int = 512) -> list[Example]:
    tokenizer.chat_template = template
    data = as_dataset(rows)
    return tokenise(data.records, tokenizer, ExampleFormat(data.kind, AdapterTask.CAUSAL_LM, (), seq_len))


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def expected(tokenizer, marked: str) -> tuple[list[int], list[int]]:
    """Tokens and labels of a text whose learned parts are marked."""
    marked = marked.format(bos=tokenizer.bos_token, eos=tokenizer.eos_token)
    text, counts = "", []
    learned = False
    for character in marked:
        if character in "«»":
            learned = character == "«"
        else:
            text += character
            counts.append(learned)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    return ids, [
        token if counts[start] else IGNORED for token, (start, _) in zip(ids, encoded["offset_mapping"], strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "messages", "marked"),
    [
        ("own", [SYSTEM, *TALK], CHATML),
        ("llama3", [SYSTEM, *TALK], LLAMA),
        ("qwen2_5", [SYSTEM, *TALK], CHATML),
        ("qwen3", [SYSTEM, *TALK], QWEN3),
        ("gemma", TALK, GEMMA),
        ("phi3", TALK, PHI3),
        ("mistral", TALK, MISTRAL),
        ("mistral", [SYSTEM, *TALK], MISTRAL),
    ],
)
def test_the_assistants_turns_count_token_by_token(tokenizer, resident, name, messages, marked):
    chosen = resident.tokenizer.chat_template if name == "own" else template(name)
    (example,) = made(tokenizer, chosen, {"messages": messages})
    tokens, labels = expected(tokenizer, marked)
    assert example.tokens.tolist() == tokens
    assert example.labels.tolist() == labels


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "mistral"])
def test_calls_of_tools_are_learned_and_results_are_not(tokenizer, name):
    (example,) = made(tokenizer, template(name), {"messages": CALLING, "tools": TOOLS})
    learned = tokenizer.decode(example.labels[example.labels != IGNORED])
    whole = tokenizer.decode(example.tokens)
    assert '"name": "add", "arguments": {"a": 2, "b": 2}' in learned
    assert "It is four." in learned
    assert "Adds." in whole
    assert "Adds." not in learned
    assert "4<" not in learned
    assert "Two plus two" not in learned


def test_a_tool_call_of_qwen_counts_token_by_token(tokenizer):
    (example,) = made(tokenizer, template("qwen2_5"), {"messages": CALLING, "tools": TOOLS})
    tokens, labels = expected(tokenizer, QWEN_TOOLS.replace("«\n<tool_call>", "\n«<tool_call>"))
    assert example.tokens.tolist()[-len(tokens) :] == tokens
    assert example.labels.tolist()[-len(tokens) :] == labels
    assert (example.labels[: -len(tokens)] == IGNORED).all()


def test_turns_of_weight_0_and_given_turns_do_not_count(tokenizer):
    unlearned = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    (example,) = made(tokenizer, template("llama3"), {"messages": unlearned})
    assert tokenizer.decode(example.labels[example.labels != IGNORED]) == "It is four.<|eot_id|>"
    with pytest.raises(DataError, match="no assistant turn in 'messages', expected one to learn from"):
        made(tokenizer, template("llama3"), {"messages": unlearned[:2]})


def test_the_same_chat_in_other_formats_is_the_same_example(tokenizer):
    share = [{"from": "system", "value": "Be brief."}] + [
        {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in TALK
    ]
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in [SYSTEM, *TALK]]
    own = made(tokenizer, template("qwen2_5"), {"messages": [SYSTEM, *TALK]})
    assert made(tokenizer, template("qwen2_5"), {"conversations": share})[0].digest == own[0].digest
    assert made(tokenizer, template("qwen2_5"), {"messages": parts})[0].digest == own[0].digest
    calls = [
        {"from": "human", "value": "Two plus two?"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "It is four."},
    ]
    one = made(tokenizer, template("qwen2_5"), {"conversations": calls, "tools": json.dumps(TOOLS)})
    other = made(tokenizer, template("qwen2_5"), {"messages": CALLING, "tools": TOOLS})
    assert one[0].digest == other[0].digest


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("gemma", {"messages": [SYSTEM, *TALK]}, "^record 2 of 2 is refused by the base's chat template"),
        ("llama3", {"messages": CALLING, "tools": TOOLS}, "calls tools, which the base's chat template cannot show"),
        ("qwen2_5", {"messages": [*CALLING[:1], {"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "names no tool"),
        ("qwen2_5", {"messages": [TALK[0], {**TALK[1], "weight": 0.5}]}, "weight of message 2, expected 0 or 1"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line_that_quotes_no_text(tokenizer, name, row, said):
    quoting = template(name).replace("'System role not supported'", "messages[0]['content']")
    with pytest.raises(DataError, match=said) as raised:
        made(tokenizer, quoting, {"messages": TALK}, row)
    assert not any(part in str(raised.value) for part in ("\n", "plus", "brief"))


def test_plain_messages_have_the_fingerprint_that_they_had_and_tools_change_it():
    plain = as_dataset([{"messages": TALK}])
    assert plain.records[0].messages[0] == Message("user", "Hello")
    others = [
        as_dataset([{"messages": CALLING}]),
        as_dataset([{"messages": CALLING, "tools": TOOLS}]),
        as_dataset([{"messages": [*TALK[:3], {**TALK[3], "weight": 0}]}]),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 4
    # As it was before messages could have more: the kind, the number of records, and every text with its length.
    texts = ["", "", "", "", "4", *(text for turn in TALK for text in (turn["role"], turn["content"])), "0"]
    digest = hashlib.sha256(b"chat" + b"1 records")
    for text in texts:
        digest.update(b"%d %b" % (len(text), text.encode()))
    digest.update(b"0 records")
    assert plain.fingerprint == digest.hexdigest()
