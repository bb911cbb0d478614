"""The two baselines of a federated run, trained with as many steps on as many tokens.

*central* (pooled baseline): one model on all clients' data, as if it could be pooled: rounds x local steps optimizer
steps, each over clients x batch size sequences, so it takes as many sequential steps as a client and sees as many
tokens as the cohort. *local* (local-only baseline): every client alone, rounds x local steps steps of its own batch.
Both keep one optimizer from first to last step and are evaluated on every client's held-out part. A local-only adapter
is evaluated on its client's own part (its value for that client) and on all clients' (its value as a shared adapter).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peft import PeftModel

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation import geometry_of
from plait.rounds.evaluation import ClientLoss
from plait.rounds.moved_base import UNMOVED, MovedBase
from plait.rounds.run_state import client_seed
from plait.training.examples import Example
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.teaching import Teaching, teaching_of
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

_MOST_EVALUATORS = 16


@dataclass(frozen=True)
class Reference:
    """The result of a baseline.

    Attributes:
        kind: ``central`` or ``local``.
        by_client: held-out loss on each client's held-out part.
        everywhere: mean loss of the *local* adapters on all clients' held-out parts (with many clients, on those of
            sixteen); for *central*, the same as `by_client`.
    """

    kind: str
    by_client: Mapping[str, ClientLoss]
    everywhere: float
    steps: int
    batch_size: int
    wall_s: float


def train_reference(
    kind: str,
    base: ResidentBase,
    clients: Mapping[str, PeftLocalModel],
    *,
    spec: AdapterSpec,
    initial: AdapterState,
    settings: Settings,
    steps: int,
    seed: int,
    moved: MovedBase = UNMOVED,
    progress: Callable[[str], None] = lambda _: None,
) -> Reference:
    """Train one of the two baselines.

    Args:
        kind: ``central`` or ``local``.
        steps: optimizer steps of one model (rounds x local steps).
    """
    started = time.perf_counter()
    # A baseline averages no clients.
    settings = replace(settings, local_steps=steps, done_steps=0, found_rate_factor=1.0)

    def train(what: str, examples: Sequence[Example], settings: Settings, teaching: Teaching) -> PeftModel:
        base.stand_on(moved, geometry_of(spec))
        model = base.carrying(spec, initial)
        train_steps(
            model,
            adapter_parameters(model, spec.layout),
            examples,
            settings,
            start=initial.flat,
            task=spec.task,
            pad_token=base.pad_token,
            on_step=lambda step, _: progress(f"{what}, step {step + 1} of {steps}"),
            teaching=teaching,
            tokenizer=base.tokenizer,
            memory=base.step_memory,
        )
        return model

    before = {id(client): client.evaluate(spec, initial, settings, moved) for client in clients.values()}

    def measured(model: PeftModel, client: PeftLocalModel) -> ClientLoss:
        return client.measure_losses(model, spec, settings).since(before[id(client)])

    by_client: dict[str, ClientLoss] = {}
    everywhere: list[ClientLoss] = []
    accumulation = settings.gradient_accumulation_steps
    if kind == "central":
        accumulation *= len(clients)
        pooled = [example for client in clients.values() for example in client.split(spec, settings).train]
        pooled_settings = replace(
            settings, gradient_accumulation_steps=accumulation, seed=client_seed(seed, 0, "central")
        )
        model = train("central", pooled, pooled_settings, teaching_of(settings.objective))
        by_client = {name: measured(model, client) for name, client in clients.items()}
        everywhere = list(by_client.values())
    else:
        evaluators = list(clients.values())[:: -(-len(clients) // _MOST_EVALUATORS)]
        for name, client in clients.items():
            own_settings = replace(settings, seed=client_seed(seed, 0, name))
            own = client.split(spec, settings).train
            model = train(f"local, {name}", own, own_settings, client.teaching(settings))
            by_client[name] = measured(model, client)
            everywhere += [by_client[name] if other is client else measured(model, other) for other in evaluators]
    tokens = sum(loss.tokens for loss in everywhere)
    return Reference(
        kind,
        by_client,
        sum(loss.loss * loss.tokens for loss in everywhere) / tokens,
        steps,
        settings.batch_size * accumulation,
        time.perf_counter() - started,
    )
