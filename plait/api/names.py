"""Notice a mistyped name before anything heavy is loaded: in one second instead of ten."""

from __future__ import annotations

from plait.config import RunConfig


def check_names(settings: RunConfig, *, runs: bool = True, data: bool = True) -> None:
    """Refuse an unknown name of data, base, method, rule, wire or partition.

    Args:
        runs: whether a run will follow; `plait estimate` knows more bases and needs no data.
        data: whether the data are to be found under their name; not if they are in memory.

    Raises:
        ConfigError: a name is unknown; the nearest known one is named.
        DataError: the data is not a file.
    """
    from plait.adapters.methods import method_named
    from plait.aggregation import optimizer_for, rule_named
    from plait.choice import split_choices
    from plait.data import check_data_name
    from plait.flower.rule_table import ALL_RULES
    from plait.simulation.scheme import parse_partition
    from plait.training.bases import check_base_name
    from plait.training.local_loss import loss_named
    from plait.training.teaching import teaching_of
    from plait.wire.codecs import codec_for

    if runs:
        check_base_name(settings.base)
    if runs and data and settings.data:
        check_data_name(settings.data, columns=settings.columns, split=settings.split)
    method_named(settings.method)
    codec_for(settings.wire)
    if settings.partition:
        parse_partition(settings.partition)
    for text in split_choices(settings.callbacks) if runs else ():
        from plait.rounds.named_callbacks import callback_named

        callback_named(text)
    loss_named(settings.loss)
    teaching_of(settings.objective).check()
    rule_named(settings.rule, ALL_RULES)
    if settings.server_optimizer != "auto":
        optimizer_for(settings.server_optimizer)
