"""Tokens per second with many adapters on one base: batched together, and by swapping adapters.

The requests are for the adapters in turn. Four ways to answer them all, greedily and to the same length:

    together      plait's engine, all adapters in one batch
    adapter wise  plait's engine, one adapter after another, its requests batched
    swap batches  PEFT: set_adapter, then generate for all requests of that adapter at once
    swap          PEFT: set_adapter and generate, request by request in order of arrival

The ways are interleaved and repeated, on the same machine state as far as possible; medians are reported. So is the
share of texts that equal those of `swap`, character for character.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from plait.adapters import AdapterState, Task
from plait.adapters.methods import AdapterRequest
from plait.machine import processor
from plait.training.bases import LocatedBase, locate_base, quiet_libraries
from plait.training.blueprint import design, read_base_config
from plait.training.device import choose_compute
from plait.training.serving import Engine, Generation, Limits, Piece, Sampling, ServedAdapter

PROMPTS = (
    "def read_lines(path, encoding='utf-8'):\n    ",
    "class Queue:\n    def __init__(self, limit=0):\n        ",
    "The three rules that every beginner should know about gardens are",
    "import json\nimport os\n\n\ndef main():\n    ",
)

Texts = list[str]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    base = locate_base(options.base)
    ways = make_ways(base, options)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, Texts] = {}
    for repetition in range(options.repetitions + 1):
        for name, answer in ways.items():
            started = time.perf_counter()
            texts[name] = answer()
            if repetition:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
    tokens = options.adapters * options.requests * options.tokens
    rates = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    result = {
        "base": options.base,
        "adapters": options.adapters,
        "requests_per_adapter": options.requests,
        "new_tokens": options.tokens,
        "rank": options.rank,
        "threads": options.threads,
        "processor": processor(),
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
        "tokens_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "seconds": {name: [round(value, 3) for value in taken] for name, taken in seconds.items()},
        "against_swap": {name: round(rate / rates["swap"], 2) for name, rate in rates.items()},
        "texts_as_swap": {name: agreement(found, texts["swap"]) for name, found in texts.items()},
    }
    print(json.dumps(result, indent=2))
    if options.name:
        target = Path(__file__).parent / f"results-{options.name}.json"
        target.write_text(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2, help="for each adapter")
    parser.add_argument("--tokens", type=int, default=32, help="written for each request")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--name", default="", help="write results-NAME.json beside this file")
    return parser.parse_args()


def make_ways(base: LocatedBase, options: argparse.Namespace) -> dict[str, Callable[[], Texts]]:
    compute = choose_compute("cpu", options.dtype)
    request = AdapterRequest(rank=options.rank, alpha=2.0 * options.rank)
    spec = design(read_base_config(base.directory, Task.CAUSAL_LM), request, task=Task.CAUSAL_LM, seed=0).spec
    states = [random_state(spec.layout, seed) for seed in range(options.adapters)]

    engine = Engine(base.directory, compute, Limits(rows=options.adapters * options.requests, waiting=4096))
    served = [engine.place(f"a{index}", spec, state) for index, state in enumerate(states)]
    prompts = [engine.encode(PROMPTS[index % len(PROMPTS)]) for index in range(options.adapters * options.requests)]
    # In turn: neighbours in the queue are for different adapters.
    owners = [index % options.adapters for index in range(len(prompts))]

    model = AutoModelForCausalLM.from_pretrained(
        base.directory, dtype=compute.dtype, local_files_only=True, trust_remote_code=False
    )
    config = PeftConfig.from_peft_type(**dict(spec.peft_config))
    swapped = get_peft_model(model, config, adapter_name="a0", autocast_adapter_dtype=False)
    for index in range(1, options.adapters):
        swapped.add_adapter(f"a{index}", PeftConfig.from_peft_type(**dict(spec.peft_config)))
    for index, state in enumerate(states):
        load(swapped, f"a{index}", state)
    swapped.eval()

    tokenizer = AutoTokenizer.from_pretrained(base.directory, local_files_only=True, trust_remote_code=False)

    def generate(indices: list[int]) -> Texts:
        width = max(len(prompts[index]) for index in indices)
        tokens = torch.zeros(len(indices), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(indices):
            tokens[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        swapped.set_adapter(f"a{owners[indices[0]]}")
        with torch.inference_mode():
            out = swapped.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=options.tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return [tokenizer.decode(row, skip_special_tokens=True) for row in out[:, width:].tolist()]

    def ours(indices: list[int]) -> Texts:
        return answered(engine, [(prompts[index], served[owners[index]]) for index in indices], options.tokens)

    everything = list(range(len(prompts)))
    of_adapter = [[index for index in everything if owners[index] == owner] for owner in range(options.adapters)]

    def in_groups(answer: Callable[[list[int]], Texts], groups: list[list[int]]) -> Texts:
        found: dict[int, list[int]] = {}
        for group in groups:
            found.update(zip(group, answer(group), strict=True))
        return [found[index] for index in everything]

    return {
        "together": lambda: ours(everything),
        "adapter wise": lambda: in_groups(ours, of_adapter),
        "swap batches": lambda: in_groups(generate, of_adapter),
        "swap": lambda: in_groups(generate, [[index] for index in everything]),
    }


def answered(engine: Engine, asked: list[tuple[tuple[int, ...], ServedAdapter]], count: int) -> Texts:
    pieces: list[list[str]] = [[] for _ in asked]
    for (prompt, adapter), told in zip(asked, pieces, strict=True):

        def tell(piece: Piece, told: list[str] = told) -> None:
            told.append(piece.text)

        engine.submit(Generation(prompt, adapter, count, tell, Sampling(temperature=0), ignore_end=True))
    while engine.busy:
        engine.step()
    return ["".join(told) for told in pieces]


def random_state(layout, seed: int) -> AdapterState:
    values = np.random.default_rng(seed).normal(0, 0.03, layout.size).astype(np.float32)
    return AdapterState(layout, values)


def load(model, name: str, state: AdapterState) -> None:
    from peft import set_peft_model_state_dict

    tensors = {slot: torch.from_numpy(np.array(values)) for slot, values in state.items()}
    missing = set_peft_model_state_dict(model, tensors, adapter_name=name)
    if missing.unexpected_keys:
        raise SystemExit(f"not loaded: {missing.unexpected_keys[:3]}")


def agreement(found: Texts, expected: Texts) -> float:
    return sum(left == right for left, right in zip(found, expected, strict=True)) / len(expected)


if __name__ == "__main__":
    main()
