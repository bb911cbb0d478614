"""The baselines of a simulated run: one model on all clients' data, or one for each client alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peft import PeftModel

from plait.adapters import AdapterSpec, AdapterState
from plait.rounds.evaluation import ClientLoss
from plait.rounds.run_state import client_seed
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.local_model import PeftLocalModel
from plait.training.losses import TrainingObjective
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.tokenization import training_objective
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

_MOST_EVALUATORS = 16


@dataclass(frozen=True)
class BaselineResult:
    """A baseline's losses on each client's held-out part, and of local adapters on others' (at most 16)."""

    kind: str
    by_client: Mapping[str, ClientLoss]
    everywhere: float
    steps: int
    batch_size: int
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What the baselines of a run are trained on, for so many steps of one model (rounds x local steps)."""

    base: ResidentBase
    clients: Mapping[str, PeftLocalModel]
    spec: AdapterSpec
    initial: AdapterState
    settings: Settings
    steps: int
    seed: int
    progress: Callable[[str], None] = lambda _: None

    def trained(self, kind: str) -> BaselineResult:
        """Train one of the two, ``central`` or ``local``."""
        started, clients = time.perf_counter(), self.clients
        given = self.spec, self.initial, self._alone
        before = {name: client.evaluate(*given) for name, client in clients.items()}
        by_client: dict[str, ClientLoss] = {}
        everywhere: list[ClientLoss] = []

        def measured(model: PeftModel, name: str) -> ClientLoss:
            return clients[name].measure_losses(model, self.spec, self._alone).since(before[name])

        accumulation = self.settings.gradient_accumulation_steps
        if kind == "central":
            accumulation *= len(clients)
            pooled = [example for each in clients.values() for example in each.split(self.spec, self._alone).train]
            model = self._train("central", pooled, training_objective(self.settings.objective), accumulation)
            by_client = {name: measured(model, name) for name in clients}
            everywhere = list(by_client.values())
        else:
            evaluators = [*clients][:: -(-len(clients) // _MOST_EVALUATORS)]
            for name, client in clients.items():
                own = client.split(self.spec, self._alone).train
                model = self._train(name, own, client.objective(self._alone), accumulation)
                by_client[name] = measured(model, name)
                everywhere += [by_client[name] if other == name else measured(model, other) for other in evaluators]
        tokens = sum(loss.tokens for loss in everywhere)
        return BaselineResult(
            kind,
            by_client,
            sum(loss.loss * loss.tokens for loss in everywhere) / tokens,
            self.steps,
            self.settings.batch_size * accumulation,
            time.perf_counter() - started,
        )

    @property
    def _alone(self) -> Settings:
        return replace(self.settings, local_steps=self.steps, done_steps=0, found_rate_factor=1.0)

    def _train(
        self, whose: str, examples: Sequence[Example], objective: TrainingObjective, accumulation: int
    ) -> PeftModel:
        base, spec = self.base, self.spec
        seed = client_seed(self.seed, 0, whose)
        settings = replace(self._alone, gradient_accumulation_steps=accumulation, seed=seed)
        what = whose if whose == "central" else f"local, {whose}"
        model = base.with_adapter(spec, self.initial)
        inputs = TrainingInputs(
            examples,
            settings,
            self.initial.flat,
            task=spec.task,
            pad_token=base.pad_token,
            tokenizer=base.tokenizer,
        )
        train_steps(
            model,
            adapter_parameters(model, spec.layout),
            inputs,
            on_step=lambda step, _: self.progress(f"{what}, step {step + 1} of {self.steps}"),
            objective=objective,
            memory=base.step_memory,
        )
        return model
