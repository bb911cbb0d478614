"""What a run takes on links and disks, from its settings and the base's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plait.adapters import AdapterSpec
from plait.aggregation import Geometry
from plait.rounds.broadcasts import NEW_FACTORS_BITS, at_least
from plait.rounds.checkpoint import KEPT as CHECKPOINTS_KEPT
from plait.rounds.message_sizes import MessageSizes
from plait.run import bits_of_broadcasts, links_of, request_of
from plait.settle import Settled
from plait.training.blueprint import Shape, read_base_config, shape_of


def planned_shape(settled: Settled, base_directory: Path) -> Shape:
    """The requested adapter without values, from the base's config alone.

    Raises:
        ConfigError: the base cannot carry it.
    """
    config, task = settled.config, settled.task
    return shape_of(
        read_base_config(base_directory, task, config.label_names),
        request_of(settled, config.rank),
        task=task,
        labels=config.label_names,
        seed=config.seed,
    )


@dataclass(frozen=True)
class CopiesOnDisk:
    """A run's disk space, in float32 values per parameter of the adapter.

    Attributes:
        client: at a client during the run, besides the adapter itself.
        client_after: the same once the run is over.
        server: in the run directory, including the published adapter.
    """

    client: float
    client_after: float
    server: float


def copies_on_disk(settled: Settled, geometry: Geometry) -> CopiesOnDisk:
    """The disk space of clients and server, without the base's movement and the rule's own state.

    Every value that a client carries from round to round is stored twice: as the newest round began, and as it ended.
    """
    config, rule, codec = settled.config, settled.rule, settled.codec
    lag = 1 if codec.distortion else 0
    own = float(bool(config.given_own_share))
    if rule.personal:
        own = geometry.side_size(rule.personal) / geometry.layout.size
    is_rounded = links_of(settled, geometry.layout.size, evaluates=False).is_rounded
    residual = 0 if settled.new_factors else 1 if is_rounded else lag
    settings = settled.plan.settings
    moments = 2 if settings.carry_moments else 0
    drift = 2 if settings.scaffold else 1 if settings.feddyn else 0
    slope = 1 if settings.measures_slope else 0
    bits = bits_of_broadcasts(settled)
    accepted = 2.0 * (config.keep != "last")  # the master, and what was evaluated
    return CopiesOnDisk(
        client=2 * (own + residual + moments + drift + slope),
        client_after=own,
        server=1 + CHECKPOINTS_KEPT * (1 + accepted + 1 + settled.optimizer.copies + bits / 32),
    )


def message_sizes(settled: Settled, spec: AdapterSpec, *, evaluates: bool) -> MessageSizes:
    """The sizes of a run's messages."""
    size, codec = spec.layout.size, settled.codec
    if settled.new_factors:
        codec = at_least(NEW_FACTORS_BITS, codec)
    links = links_of(settled, size, evaluates=evaluates)
    bits_up, more_down = links.up, round(links.more_down * size / 8)
    return MessageSizes.of(settled.tasks, spec, codec=codec, bits_up=bits_up, more_down=more_down)


def bits_on_links(settled: Settled, size: int, *, evaluates: bool) -> tuple[float, float]:
    """Bits for each of `size` parameters in an update and in a broadcast, with what is sent beside it.

    Args:
        evaluates: whether every round is evaluated.
    """
    links = links_of(settled, size, evaluates=evaluates)
    return links.up, links.down + links.more_down
