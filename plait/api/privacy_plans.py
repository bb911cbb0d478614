"""What differential privacy means for a planned run."""

from __future__ import annotations

import math

from plait.errors import ConfigError
from plait.ledger.privacy import MECHANISM, WORTH_WARNING, WORTH_WARNING_OF_RECORDS
from plait.privacy.record import privacy_of as privacy_of_records
from plait.privacy.run import privacy_of
from plait.report.costs import Planned
from plait.report.table import Table
from plait.report.wording import count_text
from plait.settle import ResolvedConfig


def plans(settled: ResolvedConfig, size: int, parameters: int, records: int | None) -> Planned:
    """What it costs, and whether anything useful is left, for clients with so many records, if that was said."""
    unit = settled.config.dp
    if unit == "record":
        return _of_records(settled, size, parameters, records)
    return _of_clients(settled, size, parameters)


def _of_clients(settled: ResolvedConfig, size: int, parameters: int) -> Planned:
    privacy = privacy_of(settled.config)
    if privacy is None:
        return Planned(tables=(), figures={})
    ratio, epsilon = privacy.noise_over_clip(size), privacy.epsilon_after(settled.config.rounds)
    needed = math.ceil(settled.config.cohort_size * ratio / WORTH_WARNING)
    warning = (
        f"Warning: the noise is {ratio:.3g} times the longest mean that a round can have; expect no useful adapter. It "
        f"would be {WORTH_WARNING:g} times with {needed:,} clients per round, or with "
        f"{_fewer(parameters, ratio, WORTH_WARNING)}."
    )
    rows = (
        ("epsilon of the whole run", f"{epsilon:.4g}"),
        ("delta", f"{privacy.delta:g}"),
        ("noise multiplier of a round", f"{privacy.noise_multiplier:.4g}"),
        ("noise in a round's mean, over the clip norm", f"{ratio:.3g}"),
        ("mechanism", MECHANISM),
    )
    note = warning if ratio > WORTH_WARNING else ""
    table = Table(title="Differential privacy of clients", headings=("", ""), rows=rows, note=note)
    return _planned(table, epsilon, privacy.delta, privacy.noise_multiplier, ratio)


def _of_records(settled: ResolvedConfig, size: int, parameters: int, records: int | None) -> Planned:
    if records is None:
        raise ConfigError(
            "dp is 'record' and records is not given; give --records N, how many a client trains on: the noise "
            "follows from it"
        )
    task = settled.plan.settings
    each = privacy_of_records(task, records=records)
    ratio = each.noise_over_clip(size) / math.sqrt(settled.config.cohort_size)
    epsilon = each.epsilon_after(task.total_steps)
    most = WORTH_WARNING_OF_RECORDS
    warning = (
        f"Warning: the noise is {ratio:.3g} times the longest mean gradient that a step can have; expect no useful "
        f"adapter. More records, larger batches (up to a tenth of the records), or {_fewer(parameters, ratio, most)} "
        "help."
    )
    rows = (
        ("epsilon of a client's records, whole run", f"{epsilon:.4g}"),
        ("delta", f"{each.delta:g}"),
        ("noise of a client's step, over the clip norm", f"{each.noise:.4g}"),
        ("noise in a step's mean of all clients, over the clip norm", f"{ratio:.3g}"),
    )
    note = warning if ratio > most else ""
    table = Table(title="Differential privacy of records", headings=("", ""), rows=rows, note=note)
    return _planned(table, epsilon, each.delta, each.noise, ratio)


def _planned(table: Table, epsilon: float, delta: float, multiplier: float, ratio: float) -> Planned:
    figures = {"dp_epsilon": epsilon, "dp_delta": delta, "dp_noise_multiplier": multiplier, "dp_noise_over_clip": ratio}
    return Planned(tables=(table,), figures=figures)


def _fewer(parameters: int, ratio: float, most: float) -> str:
    # The noise's norm grows with the root of the number of parameters.
    return (
        f"an adapter of {count_text(int(parameters * (most / ratio) ** 2))} parameters (--rule fedsb, --method lora_xs)"
    )
