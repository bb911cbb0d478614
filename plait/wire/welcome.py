"""The run configuration that a server sends to nodes: what clients need. A client accepts no other keys."""

from collections.abc import Mapping

from plait.config import RunConfig, Scalar, config_from_table
from plait.errors import ConfigError, PeerError
from plait.system.files import at_home, is_there

WELCOME_KEYS = frozenset(
    {
        # What is adapted, and how.
        "base", "labels", "method", "rank", "alpha", "client-ranks",
        "dropout", "target-modules",
        # How clients train and measure.
        "local-steps", "batch-size", "gradient-accumulation-steps", "seq-len", "learning-rate",
        "lr-schedule", "weight-decay", "max-grad-norm", "correction", "objective", "loss",
        "personalize", "trainer", "epochs", "lr-schedule-over", "packing",
        "held-out-fraction", "max-held-out-sequences", "judge-part", "eval-metrics", "bits", "seed",
        # How the run goes.
        "rounds", "rule", "clients", "clients-per-round", "eval-every", "eval-clients",
        # Where the server's step may follow the slopes that clients measure; only sent there.
        "server-optimizer",
        # Of tables that a run may leave out.
        "rounds-mode", "step-budget", "secure-aggregation",
        "dp", "dp-epsilon", "dp-delta", "dp-clip",
        "group", "dp-unit", "dp-group-records",
    }
)  # fmt: skip
"""The keys that a server sends to its clients."""


def welcome_table(table: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The part of a run configuration that a server sends to its clients."""
    keys = WELCOME_KEYS
    if table.get("server-optimizer") not in ("line_search", "auto"):
        keys -= {"server-optimizer"}
    sent = {key: value for key, value in table.items() if key in keys}
    base = sent.get("base")
    if isinstance(base, str) and is_there(at_home(base)):
        # A directory or a file of the server means nothing to others; the fingerprint identifies the base.
        sent["base"] = at_home(base).resolve().name
    return sent


def config_from_welcome(table: Mapping[str, object]) -> RunConfig:
    """The run configuration that a client received, with every key and value checked.

    Without the server's step in it, no slope is measured for one.

    Raises:
        PeerError: a key that no server sends, or an invalid value.
    """
    for key in table:
        if key not in WELCOME_KEYS:
            raise PeerError(
                f"server's run configuration has {key!a}, which this version does not accept; "
                "install the plait version that the server runs"
            )
    try:
        return config_from_table({"server-optimizer": "none", **table}, where="server's run configuration")
    except ConfigError as error:
        raise PeerError(str(error)) from error
