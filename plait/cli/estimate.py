"""``plait estimate``: what a run would cost, from a base's config alone; nothing is downloaded, trained or sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from plait.api.names import check_names
from plait.cli.options import ConfigFile, run_config, with_run_options
from plait.cli.output import print_json, print_tables
from plait.places import at

# NF4: four bits, and a scale in eight bits for each 64 values with one in 32 bits for each 256 of these.
_FOUR_BITS = 4 + 8 / 64 + 32 / (64 * 256)

if TYPE_CHECKING:
    from plait.report.estimate import CostInputs
    from plait.settle import Settled
    from plait.simulation.planned_run import PlannedRun
    from plait.training.blueprint import Shape
    from plait.training.memory_plan import Training


def _planned_run(settled: Settled, shape: Shape, *, evaluates: bool) -> PlannedRun:
    """Its bytes, and its time by a virtual clock if it has one."""
    from plait.simulation.planned_run import change_of, plan_run
    from plait.sizes import message_sizes

    config = settled.config
    return plan_run(
        settled.plan,
        message_sizes(settled, shape.spec, evaluates=evaluates),
        evaluates=evaluates,
        example_tokens=config.seq_len * config.learned.sequences,
        base_parameters=shape.base_parameters,
        change=change_of(config),
    )


@with_run_options()
def estimate(
    given: Mapping[str, object],
    config: ConfigFile = None,
    up_mbps: Annotated[
        float | None, typer.Option("--up-mbps", help="A client's uplink in megabits per second.")
    ] = None,
    down_mbps: Annotated[
        float | None, typer.Option("--down-mbps", help="A client's downlink in megabits per second.")
    ] = None,
    tokens_per_s: Annotated[
        float | None, typer.Option("--tokens-per-s", help="A client's training speed, to estimate the time of a round.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Count an evaluation by every client in every round.")
    ] = True,
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Records that a client trains on, for --dp record.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Estimate the bytes, savings and time of a run without running it; takes the options of `plait simulate`.

    Example: plait estimate --base mistral-7b --rank 32 --target-modules q_proj,v_proj --clients 20 --rounds 200
    """
    settings = run_config(given, config)
    check_names(settings, runs=False)
    from plait.progress import status
    from plait.report.estimate import CostEstimate, estimate_tables
    from plait.settle import settle

    with status("reading the base's config", quiet=json_output):
        from plait.training.bases import quiet_libraries

        quiet_libraries()
        settled = settle(settings)
        inputs = _inputs(settled, evaluates=evaluate and settled.config.evaluates, records=records)
    costs = CostEstimate(
        replace(
            inputs,
            bandwidth_up_bps=up_mbps and up_mbps * 1e6,
            bandwidth_down_bps=down_mbps and down_mbps * 1e6,
            train_tokens_per_s=tokens_per_s,
        )
    )
    if json_output:
        print_json(costs.to_json())
        return
    print_tables(estimate_tables(costs))


def _inputs(settled: Settled, *, evaluates: bool, records: int | None) -> CostInputs:
    """What is known of a run before anything is measured."""
    from plait.adapters.methods import is_quantised
    from plait.aggregation import geometry_of
    from plait.report.estimate import CostInputs
    from plait.report.profiles import PROFILES
    from plait.rounds.run_now import Traffic
    from plait.rounds.spool import largest_update
    from plait.sizes import bits_on_links, copies_on_disk, planned_shape
    from plait.training.bases import locate_config
    from plait.training.memory_plan import Training

    settings, training = settled.config, Training.of(settled.plan.settings)
    shape = planned_shape(settled, locate_config(settings.base, revision=settings.revision))
    size, geometry = shape.spec.layout.size, geometry_of(shape.spec)
    copies = copies_on_disk(settled, geometry)
    bits_up, bits_down = bits_on_links(settled, size, evaluates=evaluates)
    planned, largest = _planned_run(settled, shape, evaluates=evaluates), largest_update(settled.rule, geometry)
    steps = settings.local_steps * settings.gradient_accumulation_steps
    return CostInputs(
        trainable_parameters=size,
        full_model_parameters=shape.base_parameters,
        clients=settings.clients,
        clients_per_round=settings.cohort_size,
        rounds=settings.rounds,
        bits_up=bits_up,
        bits_down=bits_down,
        overhead_bytes=0,
        evaluating_clients=settings.clients if evaluates else 0,
        tokens_per_client_round=steps * settings.batch_size * settings.learned.sequences * settings.seq_len,
        parameters_per_rank=sum(pair.d_in + pair.d_out for pair in geometry.pairs) or None,
        # An example's own factors and their gradient are two bytes each.
        training_copies=training.copies + training.stacked,
        completions_bytes=_completions_bytes(settled, shape, training),
        client_copies=copies.client,
        client_copies_after=copies.client_after,
        server_copies=copies.server,
        planned=tuple(at(each.plans)(settled, largest, size, records) for each in settings.wanted if each.plans),
        base_bits=_FOUR_BITS if is_quantised(shape.spec.method) else 16,
        rank=settings.rank,
        catalogue=tuple((name, each.tokens_per_s(shape.base_parameters)) for name, each in PROFILES.items()),
        sent=Traffic(planned.uplink_bytes, planned.downlink_bytes),
        virtual_s=planned.virtual_s,
    )


def _completions_bytes(settled: Settled, shape: Shape, training: Training) -> int | None:
    """What completions that are sampled take in memory; None if none are, or that is not known."""
    from plait.training.bases import locate_config
    from plait.training.blueprint import read_base_config
    from plait.training.memory_plan import completions_bytes, size_of

    settings = settled.config
    if not (rows := max(training.drawn, training.judged)):
        return None
    of_base = read_base_config(locate_config(settings.base, revision=settings.revision), shape.spec.task)
    size = size_of(of_base, shape.spec, value_bytes=2, seq_len=settings.seq_len)
    return size and completions_bytes(size, rows=rows, seq_len=settings.seq_len)
