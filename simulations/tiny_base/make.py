"""Make the built-in base `tiny`: a Llama of one million parameters, for tests and quick experiments.

It is pre-trained on the single-file modules of Python's standard library, so that it has not seen the *packages*
(asyncio, email, ...), which the built-in data set distributes to clients. Run it from the repository's root:

    python simulations/tiny_base/make.py            # about 3 minutes on two cores; writes plait/training/tiny_base/

The weights depend on the Python release whose library is read and on the machine's arithmetic; those in the repository
come from Python 3.11 (see README.md beside them).
"""

from __future__ import annotations

import base64
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plait.data import as_dataset

TARGET = Path(__file__).resolve().parents[2] / "plait" / "training" / "tiny_base"
VOCABULARY, SEQ_LEN, BATCH, STEPS, PEAK_LR, SEED = 2048, 128, 16, 2400, 3e-3, 0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts() -> list[str]:
    dataset = as_dataset("stdlib", progress=print)
    return [record.text for record in dataset.records if "/" not in record.columns["path"]]


def train_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


def main() -> None:
    torch.manual_seed(SEED)
    corpus = texts()
    tokenizer = train_tokenizer(corpus)
    ids = np.concatenate([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in corpus])
    rows = torch.from_numpy(ids[: len(ids) // SEQ_LEN * SEQ_LEN].reshape(-1, SEQ_LEN).astype(np.int64))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{len(rows):,} sequences of {SEQ_LEN} tokens, {model.num_parameters():,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01, betas=(0.9, 0.95))
    started = time.time()
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / 50)
        lr = PEAK_LR * warm * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = rows[torch.randint(len(rows), (BATCH,))]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step:5}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        keep(Path(folder))
    print(f"wrote {TARGET}", file=sys.stderr)


def keep(made: Path) -> None:
    """JSON files unchanged, all others packed into one for the Flower App Bundle (plait/training/bases.py)."""
    packed: dict[str, str] = {}
    for path in sorted(made.iterdir()):
        if path.suffix == ".json":
            (TARGET / path.name).write_bytes(path.read_bytes())
        else:
            packed[path.name] = base64.b64encode(path.read_bytes()).decode()
    (TARGET / "packed.json").write_text(json.dumps(packed, indent=0) + "\n")


if __name__ == "__main__":
    main()
