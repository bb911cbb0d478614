"""Where a training step goes: processor time of its parts, which add up to the whole.

    PYTHONPATH=. python simulations/train/parts.py >simulations/train/parts.json

One thread, so that nothing waits for another, and a busy machine counts little. The limit is what the operations of
`plait bench train` take at this machine's matrix rate.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable

from plait.training import learner, trainer
from plait.training.bases import locate_base, quiet_libraries
from plait.training.device import matrix_gflops, use_threads
from plait.training.fused import block, kernels
from simulations.bench.train_ways import Workload, inference, multiplied_parameters
from simulations.bench.train_ways import plait as training

PARTS: tuple[tuple[object, str, str], ...] = (
    (block, "project", "frozen products forward"),
    (block, "input_gradient", "frozen products backward"),
    (kernels, "_losses", "vocabulary: products"),
    (kernels, "absorb_logits_", "vocabulary: softmax"),
    (kernels, "accumulate_rescaled_", "vocabulary: softmax"),
    (block, "add_products", "adapter forward"),
    (block, "add_input_gradient", "adapter backward"),
    (block, "pair_gradients", "adapter's gradients"),
    (block, "attend", "attention"),
    (block, "attend_gradient", "attention"),
    *((block, name, "norms and activation") for name in ("rms_norm", "rms_norm_again", "swiglu", "swiglu_gradient")),
    (learner.Learner, "step", "optimizer"),
    (trainer, "follow", "optimizer"),
    (trainer, "summed_gradients", "optimizer"),
)
"""Functions, and the part that each one's own time belongs to; what is in none is the framework's."""


class Stopwatch:
    """Time spent in functions themselves, without the other watched functions that they call."""

    def __init__(self) -> None:
        self.parts = defaultdict[str, float](float)
        self._inner: list[float] = []

    def watch(self, where: object, name: str, part: str) -> None:
        """Measure a function from now on."""
        function: Callable[..., object] = getattr(where, name)

        def watched(*given: object, **named: object) -> object:
            began = time.thread_time()
            self._inner.append(0.0)
            try:
                return function(*given, **named)
            finally:
                took = time.thread_time() - began
                self.parts[part] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        setattr(where, name, watched)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    use_threads(1)
    quiet_libraries()
    base = locate_base("smollm2-135m")
    work = Workload(
        base.directory, base.reference.fingerprint, device="cpu", dtype="bfloat16", threads=1, seq_len=asked.seq_len
    )
    step, evaluation, stopwatch = training(work), inference(work), Stopwatch()
    step(1)
    evaluation(1)
    operations = 4 * multiplied_parameters(work) * work.tokens
    limit_s = 0.0
    for _ in range(asked.repetitions):
        limit_s = operations / 1e9 / matrix_gflops(work.compute, clock=time.thread_time)
        of_limit = {"step": limit_s / _took_s(step), "evaluation": limit_s / 2 / _took_s(evaluation)}
        print(json.dumps({what: round(part, 3) for what, part in of_limit.items()}), flush=True)
    for where, name, part in PARTS:
        stopwatch.watch(where, name, part)
    whole = 1000 * _took_s(step)
    parts = {
        part: round(1000 * seconds, 1) for part, seconds in sorted(stopwatch.parts.items(), key=lambda each: -each[1])
    }
    rest = round(whole - sum(parts.values()), 1)
    print(json.dumps({"limit_ms": round(1000 * limit_s, 1), "step_ms": round(whole, 1), **parts, "framework": rest}))


def _took_s(way: Callable[[int], float]) -> float:
    began = time.thread_time()
    way(1)
    return time.thread_time() - began


if __name__ == "__main__":
    main()
