"""The specification of an adapter, the text in a describe task."""

from harness import instrumented, main

with instrumented():
    from plait.adapters import parse_spec
    from plait.adapters.method import is_plain
    from plait.adapters.peft_settings import MAX_RANK, MAX_VIRTUAL_TOKENS

SEEDS = [
    (
        b'{"init_seed":0,"labels":[],"method":"lora","peft_config":{"lora_alpha":16,"peft_type":"LORA","r":8,'
        b'"target_modules":["q_proj"],"task_type":"CAUSAL_LM"},"task":"causal-lm"}'
    ),
    (
        b'{"init_seed":7,"labels":["a","b"],"method":"full","peft_config":{"modules_to_save":["classifier","score"],'
        b'"peft_type":"LN_TUNING","target_modules":["norm"],"task_type":"SEQ_CLS"},"task":"classification"}'
    ),
    (
        b'{"init_seed":1,"labels":[],"method":"p_tuning","peft_config":{"encoder_hidden_size":128,"num_layers":4,'
        b'"num_virtual_tokens":20,"peft_type":"P_TUNING","task_type":"CAUSAL_LM","token_dim":128},"task":"causal-lm"}'
    ),
    (
        b'{"init_seed":1,"labels":[],"method":"lora_xs","peft_config":{"peft_type":"PSOFT","psoft_mag_a":false,'
        b'"psoft_mag_b":false,"psoft_orth":false,"psoft_svd":"lowrank","r":8,"target_modules":["q_proj"],'
        b'"task_type":"CAUSAL_LM"},"task":"causal-lm"}'
    ),
    b'{"init_seed":1e999,"labels":[],"method":"lora","peft_config":{},"task":"causal-lm"}',
    b"[" * 4000,
    b"{}",
]


def parse(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    spec = parse_spec(text)
    # What passes is bounded, and names nothing but modules.
    assert 0 <= (spec.rank or 0) <= MAX_RANK
    assert spec.peft_config.get("num_virtual_tokens", 0) <= MAX_VIRTUAL_TOKENS
    targets = spec.peft_config.get("target_modules") or ()
    named = () if targets == "all-linear" else targets
    assert all(map(is_plain, (*(spec.peft_config.get("modules_to_save") or ()), *named)))


if __name__ == "__main__":
    main(parse, SEEDS)
