"""The specification of an adapter, the text that a describe task carries."""

from harness import instrumented, main

with instrumented():
    from plait.training.blueprint import parse_spec

SEEDS = [
    b'{"init_seed":0,"labels":[],"method":"lora","peft_config":{"r":8,"target_modules":["q_proj"]},"task":"causal-lm"}',
    b'{"init_seed":7,"labels":["a","b"],"method":"lora","peft_config":{},"task":"classification"}',
    b'{"init_seed":1e999,"labels":[],"method":"lora","peft_config":{},"task":"causal-lm"}',
    b"[" * 4000,
    b"{}",
]


def parse(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    parse_spec(text)


if __name__ == "__main__":
    main(parse, SEEDS)
