"""What a run that is submitted will take of a server's disk, before anything of it exists."""

from __future__ import annotations

from pathlib import Path

from plait.settle import Settled


def most_disk_bytes(settled: Settled, base: Path) -> int:
    """A bound that costs nothing: as if every update were the whole base in float32."""
    config = settled.config
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return 2 * weights * (config.rounds * config.cohort_size + 8)


def disk_bytes(settled: Settled, base: Path) -> int:
    """As `plait estimate` tells: adapters, records, and every update received.

    Raises:
        PlaitError: the base has no such modules.
    """
    from plait.aggregation import geometry_of
    from plait.report.estimate import CostEstimate, CostInputs
    from plait.run import blueprint_of
    from plait.sizes import bits_on_links, copies_on_disk

    config = settled.config
    blueprint = blueprint_of(settled, base, weights=False)
    evaluates = config.evaluates
    bits_up, bits_down = bits_on_links(settled, blueprint.spec.layout.size, evaluates=evaluates)
    return CostEstimate(
        CostInputs(
            trainable_parameters=blueprint.spec.layout.size,
            full_model_parameters=blueprint.base_parameters,
            clients=config.clients,
            clients_per_round=config.cohort_size,
            rounds=config.rounds,
            bits_up=bits_up,
            bits_down=bits_down,
            overhead_bytes=0,
            evaluating_clients=config.clients if evaluates else 0,
            server_copies=copies_on_disk(settled, geometry_of(blueprint.spec)).server,
        )
    ).server_disk_bytes
