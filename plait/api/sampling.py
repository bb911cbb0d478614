"""Samples the model of a finished run: it continues held-out data of clients, never training text."""

import json
from pathlib import Path

from plait.adapters import AdapterState
from plait.adapters.method import Option
from plait.adapters.peft import WEIGHTS_FILE
from plait.adapters.safetensors import read_safetensors
from plait.data import BUILTINS
from plait.errors import PlaitError
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.samples import FILE, MAX_TOKENS, Sample
from plait.report.terminal import say, status
from plait.report.wording import duration_text
from plait.rounds.run_directory import RunDirectory, check_given_out
from plait.run import Run
from plait.simulation.partitioned_data import PartitionedData
from plait.system.files import write_atomically
from plait.training.examples import prompt_tokens
from plait.training.generate import Sampling, TextGenerator
from plait.training.local_model import PeftLocalModel

_TEMPERATURE, _TOP_P = 0.7, 0.9
_OF_BUNDLED = 2
_BEGINNING = 24
"""Tokens of a text that are given."""
_PART_OF_RUN, _LEAST_S = 0.1, 10.0
"""Of the run's time, that its samples take at most; seconds that they may take after any run."""


def sample(run: Run, data: PartitionedData, directory: RunDirectory, *, quiet: bool) -> None:
    """Keep samples of a finished run beside its ledger, unless they are there or the run shows none.

    A user's own records are shown only if the user asks for it.
    """
    count = run.config.samples
    if count < 0:
        count = _OF_BUNDLED if run.config.data in BUILTINS else 0
    is_prompt = Option.TOKENS in run.settled.method.options
    is_hidden = run.screen is not None or bool(run.config.labels) or is_prompt
    if not count or is_hidden or (directory.path / FILE).exists():
        return
    try:
        limit_s = max(_LEAST_S, RunView.of(read_events(directory.ledger)).wall_s * _PART_OF_RUN)
        with status(f"sampling the base and the adapter, at most {duration_text(limit_s)}", quiet=quiet):
            found = _samples(run, data, directory.adapter, count, limit_s)
    except PlaitError as error:
        # The run has finished: what it shows of itself does not make it fail.
        say(f"no samples: {error}", quiet=quiet)
        return
    if found:
        write_atomically(directory.path / FILE, json.dumps(found).encode())


def _samples(run: Run, data: PartitionedData, adapter: Path, count: int, limit_s: float) -> list[Sample]:
    base, clients = run.load_base(), len(data.partition.shares)
    names: list[str] = []
    prompts: list[tuple[int, ...]] = []
    for number in range(min(count, clients)):
        share = data.partition.shares[number * clients // min(count, clients)]
        client = PeftLocalModel(
            base,
            share.name,
            share.records,
            held_out=share.held_out,
            kind=share.kind,
            histogram={},
            group=run.config.group,
        )
        held_out = client.split(run.ranks.master.spec, run.settled.plan.settings).held_out
        example = next(filter(None, held_out[0].sides), held_out[0])
        prompt = prompt_tokens(example) or tuple(map(int, example.tokens[: min(_BEGINNING, len(example.tokens) // 2)]))
        if prompt:
            names.append(share.name)
            prompts.append(prompt)
    check_given_out(adapter)
    spec = run.ranks.master.spec
    speaker = TextGenerator(
        base, spec, AdapterState.from_tensors(spec.layout, read_safetensors(adapter / WEIGHTS_FILE))
    )
    most = min(MAX_TOKENS, *(speaker.room(prompt) for prompt in prompts)) if prompts else 0
    if most < 1:
        return []
    sampling, seed = Sampling(_TEMPERATURE, _TOP_P), run.config.seed
    alone, adapted = (
        speaker.answers(prompts, max_tokens=most, sampling=sampling, seed=seed, adapted=each, limit_s=limit_s / 2)
        for each in (False, True)
    )
    beginnings = [speaker.decode(prompt) for prompt in prompts]
    return [Sample(*each) for each in zip(names, beginnings, alone, adapted, strict=True)]
