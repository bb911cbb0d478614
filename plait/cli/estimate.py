"""``plait estimate``: what a run would send, from a base's config alone; nothing is downloaded, trained or sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from plait.adapters.methods import is_quantised
from plait.aggregation import geometry_of
from plait.api.privacy_plans import plans
from plait.api.running import check_names
from plait.cli.options import ConfigFile, run_config, with_run_options
from plait.cli.output import print_json, print_tables
from plait.report.costs import Estimate
from plait.report.progress import status
from plait.rounds.spool import largest_update
from plait.settle import settle
from plait.training.bases import locate_config, quiet_libraries

# NF4: four bits, and a scale in eight bits for each 64 values with one in 32 bits for each 256 of these.
_FOUR_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Adapter, AdamW's two moments and the last step (kept where the learning rate follows slopes) in float32, and the
# model's own adapter and its gradient in bfloat16.
_TRAINED_BYTES = 4 * 4 + 2 * 2

if TYPE_CHECKING:
    from plait.settle import ResolvedConfig


@with_run_options()
def estimate(
    given: Mapping[str, object],
    config: ConfigFile = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Count the evaluations, by every client if not by fewer.")
    ] = True,
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Records that a client trains on, for --dp record.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Count the bytes of a run and what they save, without running it; takes the options of `plait simulate`.

    Example: plait estimate --base mistral-7b --rank 32 --target-modules q_proj,v_proj --clients 20 --rounds 200
    """
    settings = run_config(given, config)
    check_names(settings, runs=False)

    with status("reading the base's config", quiet=json_output):
        quiet_libraries()
        settled = settle(settings)
        costs = _estimate(settled, evaluates=evaluate and settled.config.evaluates, records=records)
    if json_output:
        print_json(costs.to_json())
        return
    print_tables(costs.tables())


def _estimate(settled: ResolvedConfig, *, evaluates: bool, records: int | None) -> Estimate:
    from plait.api.sizes import planned_shape, sent_bytes, server_disk_bytes
    from plait.training.memory_plan import Training

    config, training = settled.config, Training.of(settled.plan.settings)
    shape = planned_shape(settled, locate_config(config.base))
    size, largest = shape.spec.layout.size, largest_update(settled.rule, geometry_of(shape.spec))
    base_bits = _FOUR_BITS if is_quantised(shape.spec.method) else 16
    sent = sent_bytes(settled, shape.spec, evaluates=evaluates)
    return Estimate(
        config=config,
        trainable_parameters=size,
        base_parameters=shape.base_parameters,
        base_bits=base_bits,
        base_memory_bytes=round(shape.base_parameters * base_bits / 8),
        # An example's own factors and their gradient are two bytes each.
        adapter_memory_bytes=(_TRAINED_BYTES + 4 * (training.copies + training.stacked)) * size,
        sent=sent,
        server_disk_bytes=server_disk_bytes(settled, shape.spec, sent),
        planned=() if config.dp == "off" else (plans(settled, largest, size, records),),
    )
