"""Log-likelihood tasks: plait's forward pass against lm-evaluation-harness's own Hugging Face backend, same requests.

    pip install -e '.[eval]'
    python simulations/tasks/against_lm_eval.py --base smollm2-135m

Of English conversations of the chatterbot corpus: which of four replies was given (*replies*), the same with letters
for answers (*letters*), and the text as a whole (*text*, rolling). Reports the largest difference of a log-probability,
how many greedy verdicts differ, and the best time of `--repeats`, in alternation.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from plait.data import as_dataset
from plait.features.tasks.training.harness import harness_model, quiet_harness
from plait.training.bases import locate_base, quiet_libraries

LETTERS = ("A", "B", "C", "D")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    place = locate_base(options.base).directory
    model = AutoModelForCausalLM.from_pretrained(place, dtype=getattr(torch, options.dtype), trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    model.eval().requires_grad_(False)
    ours = harness_model(model, tokenizer, batch_size=options.batch_size, pad_token=0)
    theirs = harness_model(model, tokenizer, batch_size=options.batch_size, pad_token=0)
    del theirs._loglikelihood_tokens
    print(f"{options.base} {options.dtype}, batch {options.batch_size}, {options.threads} thread, seed 0")
    print("requests | kind | largest difference, nats | greedy differs | plait, s | lm-eval, s")
    for name, requests in requests_of(options.questions).items():
        rolling = name == "text"
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        found: dict[str, list] = {}
        for _ in range(options.repeats):
            for side, backend in (("ours", ours), ("theirs", theirs)):
                found[side], seconds = timed(
                    backend.loglikelihood_rolling if rolling else backend.loglikelihood, requests
                )
                times[side].append(seconds)
        mine, other = ([(each, True) if rolling else each for each in found[side]] for side in ("ours", "theirs"))
        apart = max(abs(a[0] - b[0]) for a, b in zip(mine, other, strict=True))
        differs = sum(a[1] != b[1] for a, b in zip(mine, other, strict=True))
        row = (len(requests), name, f"{apart:.1e}", differs, f"{min(times['ours']):.2f}", f"{min(times['theirs']):.2f}")
        print(" | ".join(map(str, row)), flush=True)


def requests_of(questions: int) -> dict[str, list[SimpleNamespace]]:
    """Requests as the harness makes them."""
    chance = random.Random(0)
    records = [record for record in as_dataset("chatterbot").records if record.columns["language"] == "english"]
    chosen = chance.sample(records, questions)
    made: dict[str, list[SimpleNamespace]] = {"replies": [], "letters": [], "text": []}
    for record in chosen:
        replies = [record.completion, *(other.completion for other in chance.sample(records, 3))]
        chance.shuffle(replies)
        listed = "\n".join(f"{letter}. {reply}" for letter, reply in zip(LETTERS, replies, strict=True))
        for letter, reply in zip(LETTERS, replies, strict=True):
            made["replies"].append(SimpleNamespace(args=(f"Question: {record.prompt}\nAnswer:", f" {reply}")))
            made["letters"].append(
                SimpleNamespace(args=(f"Question: {record.prompt}\n{listed}\nAnswer:", f" {letter}"))
            )
        made["text"].append(SimpleNamespace(args=(f"{record.prompt}\n{record.completion}",)))
    return made


def timed(call: Callable[[list], list], requests: list[SimpleNamespace]) -> tuple[list, float]:
    started = time.perf_counter()
    with quiet_harness():
        found = call(requests)
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
