"""The model, and a client's data."""

import json
from pathlib import Path

import torch
from flwr.app.user_config import UserConfig
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def get_model(config: UserConfig) -> PeftModel:
    """The base with a fresh adapter on all linear layers."""
    torch.manual_seed(int(config["seed"]))
    base = AutoModelForCausalLM.from_pretrained(
        config["model-name"], dtype=getattr(torch, str(config["dtype"])), trust_remote_code=False
    )
    return get_peft_model(
        base,
        LoraConfig(
            r=int(config["rank"]),
            lora_alpha=int(config["alpha"]),
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )


def get_rows(config: UserConfig, partition: int) -> torch.Tensor:
    """A client's sequences: the lines of the JSONL file that are its own, packed."""
    tokenizer = AutoTokenizer.from_pretrained(config["model-name"], trust_remote_code=False)
    with Path(str(config["data"])).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    names = sorted({record["client"] for record in records})
    texts = [record["text"] for record in records if record["client"] == names[partition]]
    tokens = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    length = int(config["seq-len"])
    count = len(tokens) // length
    return torch.tensor(tokens[: count * length]).view(count, length)
