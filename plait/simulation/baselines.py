"""The baselines of a simulated run: one model on all clients' data, or one for each client alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plait.adapters import AdapterSpec, AdapterState
from plait.federation import beginning_of, check_data
from plait.ledger.events import Certainty, Reference
from plait.ledger.ledger import Ledger, OnEvent, read_events
from plait.ledger.run_view import RunView
from plait.rounds.broadcasts import starting_state
from plait.rounds.channel import StopRequest
from plait.rounds.evaluation import ClientLoss, mean_loss
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import client_seed, initial_state
from plait.run import Run
from plait.simulation.simulation import Simulation
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.tokenization import training_objective
from plait.training.trainer import TrainingObjective, train_steps
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel

    from plait.rounds.metrics import RunMetrics

_MOST_EVALUATORS = 16


def add_references(
    directory: RunDirectory,
    run: Run,
    simulation: Simulation,
    *,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    progress: Callable[[str], None],
) -> None:
    """Train every requested baseline that the run's ledger lacks, and record its result there.

    A stop between two steps raises RunInterrupted; the baseline in training is then lost.
    """
    stop = stop or StopRequest()

    def step(text: str) -> None:
        stop.check()
        progress(text)

    config, ranks = run.config, run.ranks
    events = read_events(directory.ledger)
    check_data(run, events)
    view = RunView.of(events)
    missing = [kind for kind in config.references if kind not in view.references]
    if not missing:
        return
    settings = run.settled.plan.settings
    fresh = initial_state(bytes(16), ranks)
    state = starting_state(fresh, beginning_of(run), ranks, run.base_fingerprint, codec=settings.codec)
    named = ((simulation.name(index), index) for index in range(config.clients))
    clients = {name: simulation.model(index) for name, index in named if name in view.clients}
    baselines = Baselines(
        base=simulation.base,
        clients=dict(sorted(clients.items())),
        spec=ranks.master.spec,
        initial=state.adapter,
        settings=replace(
            settings,
            local_steps=config.rounds * config.local_steps,
            round_epochs=config.epochs,
            round=1,
            found_rate_factor=1.0,
        ),
        metrics=run.settled.plan.metrics,
        seed=config.seed,
        progress=step,
    )
    ledger = Ledger(directory.ledger, on_event=on_event)
    try:
        for kind in missing:
            ledger.append(baselines.trained(kind))
    finally:
        ledger.close()


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What the baselines of a run are trained on; the settings' local steps are those of the whole run."""

    base: ResidentBase
    clients: Mapping[str, PeftLocalModel]
    spec: AdapterSpec
    initial: AdapterState
    settings: Settings
    metrics: "RunMetrics | None"
    seed: int
    progress: Callable[[str], None] = lambda _: None

    def trained(self, kind: str) -> Reference:
        """Train one of the two, ``central`` or ``local``; local adapters are also evaluated at 16 clients at most."""
        started, clients, spec, settings = time.perf_counter(), self.clients, self.spec, self.settings
        before = {name: client.evaluate(spec, self.initial, settings) for name, client in clients.items()}
        by_client: dict[str, ClientLoss] = {}
        everywhere: list[ClientLoss] = []

        def measured(model: "PeftModel", name: str) -> ClientLoss:
            return clients[name].measure_losses(model, spec, settings).since(before[name])

        accumulation = settings.gradient_accumulation_steps
        if kind == "central":
            accumulation *= len(clients)
            pooled = [example for each in clients.values() for example in each.split(spec, settings).train]
            model, steps = self._train("central", pooled, training_objective(settings.objective), accumulation)
            by_client = {name: measured(model, name) for name in clients}
            everywhere = list(by_client.values())
        else:
            steps, evaluators = 0, [*clients][:: -(-len(clients) // _MOST_EVALUATORS)]
            for name, client in clients.items():
                own = client.split(spec, settings).train
                model, steps = self._train(name, own, client.objective(settings), accumulation)
                by_client[name] = measured(model, name)
                everywhere += [by_client[name] if other == name else measured(model, other) for other in evaluators]
        mean = mean_loss(by_client, self.metrics)
        return Reference(
            kind=kind,
            held_out_loss=mean.loss,
            everywhere=sum(loss.loss * loss.tokens for loss in everywhere) / sum(loss.tokens for loss in everywhere),
            by_client={name: loss.loss for name, loss in by_client.items()},
            steps=steps,
            batch_size=settings.batch_size * accumulation,
            wall_s=round(time.perf_counter() - started, 3),
            **{name: getattr(mean, name) for name in Certainty.model_fields},
        )

    def _train(
        self, whose: str, examples: Sequence[Example], objective: TrainingObjective, accumulation: int
    ) -> "tuple[PeftModel, int]":
        base, spec = self.base, self.spec
        seed = client_seed(self.seed, 0, whose)
        settings = replace(self.settings, gradient_accumulation_steps=accumulation, seed=seed)
        steps = settings.steps_on(len(examples))
        what = whose if whose == "central" else f"local, {whose}"
        model = base.with_adapter(spec, self.initial)
        inputs = TrainingInputs(
            examples,
            settings,
            self.initial,
            task=spec.task,
            pad_token=base.pad_token,
            tokenizer=base.tokenizer,
        )
        train_steps(
            model,
            adapter_parameters(model, spec.layout),
            inputs,
            on_step=lambda step, _: self.progress(f"{what}, step {step + 1} of {steps}"),
            objective=objective,
            memory=base.step_memory,
        )
        return model, steps
