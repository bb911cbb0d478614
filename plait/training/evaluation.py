"""An adapter evaluated on data, beside its base alone."""

from dataclasses import replace
from functools import partial

from plait.adapters import AdapterTask
from plait.adapters.peft_reading import PeftAdapter
from plait.data import Dataset, RecordKind
from plait.errors import ConfigError, DataError
from plait.objectives import SFT, objective_named
from plait.rounds.evaluation import ClientLoss
from plait.training.bases import LocatedBase
from plait.training.device import Compute
from plait.training.examples import spread
from plait.training.resident import ResidentBase
from plait.training.tokenization import ExampleFormat, tokenise, training_objective
from plait.training.trainer import measure_losses


def evaluate_adapter(
    located: LocatedBase,
    loaded: PeftAdapter,
    dataset: Dataset,
    *,
    compute: Compute,
    seq_len: int = 128,
    batch_size: int = 4,
    max_sequences: int = 64,
    objective: str = SFT,
) -> tuple[ClientLoss, ClientLoss]:
    """Losses of base and adapter, on the held-out split if any; BaseMismatchError, DataError."""
    located.check(loaded.base_fingerprint)
    spec = loaded.spec()
    if spec.task is AdapterTask.CLASSIFICATION and not spec.labels:
        raise DataError("the adapter does not name its classes, so it cannot be evaluated on labels")
    if spec.task is AdapterTask.CLASSIFICATION and dataset.kind is not RecordKind.LABEL:
        raise DataError(f"data '{dataset.name}' has no labels, which this adapter was trained on")
    base = ResidentBase(located.directory, located.reference.fingerprint, compute, seq_len=seq_len)
    examples = tokenise(
        dataset.held_out or dataset.records,
        base.tokenizer,
        ExampleFormat(dataset.kind, spec.task, spec.labels, seq_len, objective),
    )
    if not examples:
        raise DataError(f"data '{dataset.name}' is shorter than one sequence of {seq_len} tokens")
    chosen = spread(examples, max_sequences, by_label=spec.task is AdapterTask.CLASSIFICATION)
    if objective_named(objective).completions:
        raise ConfigError(f"objective is '{objective}', which only a run can measure")
    model = base.with_adapter(spec, loaded.state)

    measure = partial(
        measure_losses,
        task=spec.task,
        pad_token=base.pad_token,
        batch_size=batch_size,
        objective=training_objective(objective),
    )
    clusters = tuple(example.record for example in chosen)
    clusters = clusters if len(set(clusters)) < len(clusters) else ()
    adapted = replace(measure(model, chosen), clusters=clusters)
    with model.disable_adapter():
        alone = measure(model, chosen)
    return alone.since(None), adapted.since(alone)
