"""The tables of rules and server optimizers, from a name to either, and what both and methods state of themselves."""

from collections.abc import Collection, Iterator, Mapping

from plait.adapters.method import Method
from plait.adapters.methods import METHODS
from plait.aggregation.geometry import Geometry
from plait.aggregation.means import FEDAVG, FEDSA, FEDSB, FFA, ROLORA
from plait.aggregation.rule import Rule
from plait.aggregation.server_step import LINE_SEARCH, NONE, Plain, ServerOptimizer
from plait.errors import ConfigError
from plait.plugins import Kind, find
from plait.settings.choice import Choices, parse_choice, with_options
from plait.settings.traits import Stated, clash

_MEANS: Mapping[str, Rule] = {rule.name: rule for rule in (FEDAVG, FEDSA, FEDSB, FFA, ROLORA)}


def _further() -> Mapping[str, Rule]:
    from plait.aggregation import products, robust, slice_means  # only a run with one of their rules needs them

    rules = (
        *(products.FEDSVD, products.FLEXLORA, products.RAFLORA),
        *(robust.GEOMETRIC_MEDIAN, robust.MEDIAN, robust.TRIMMED_MEAN),
        *(slice_means.HETLORA, slice_means.RBLA, slice_means.ZEROPAD),
    )
    return {rule.name: rule for rule in rules}


_FURTHER = "fedsvd", "flexlora", "raflora", "geometric_median", "median", "trimmed_mean", "hetlora", "rbla", "zeropad"
RULES: Choices[Rule] = Choices((tuple(_MEANS), lambda: _MEANS), (_FURTHER, _further), alphabetical=True)
"""By name, in alphabetical order."""


def _fedopt() -> Mapping[str, ServerOptimizer]:
    from plait.aggregation.fedopt import FEDADAGRAD, FEDADAM, FEDYOGI, NESTEROV, SGD

    return {"fedadagrad": FEDADAGRAD, "fedadam": FEDADAM, "fedyogi": FEDYOGI, "nesterov": NESTEROV, "sgd": SGD}


OPTIMIZERS: Choices[ServerOptimizer] = Choices(
    (("fedadagrad", "fedadam", "fedyogi", "nesterov", "sgd"), _fedopt),
    (("line_search", "none"), lambda: {"line_search": LINE_SEARCH, "none": NONE}),
    alphabetical=True,
)


def rule_named(text: str, rules: Mapping[str, Rule]) -> Rule:
    """The requested rule, in the text of ``--rule``: ``fedavg``, ``trimmed_mean:share=0.1``, ``my_rules:Mine``.

    Raises:
        ConfigError: there is no such rule, it cannot be imported, it has no such option, or a value is out of range.
    """
    name, options = parse_choice(text)
    rule = rules.get(name)
    if rule is None and name == "fedprox":
        # What other systems call a strategy as well.
        raise ConfigError("rule is 'fedprox', which corrects clients' steps: give --correction fedprox")
    if rule is None and name in OPTIMIZERS:
        raise ConfigError(f"rule is '{name}', which is a server optimizer: give --server-optimizer {name}")
    if rule is None:
        own = _own()
        if name == own.STATED:
            return own.stated_rule(options)
        rule = own.as_rule(find(Kind.RULE, name, known=rules), name=name)
    return rule.with_options(options) if options else rule


def optimizer_for(text: str) -> ServerOptimizer:
    """One of `OPTIMIZERS`, also with options ``fedadam:lr=0.003,momentum=0.9``, or a user's own; not ``auto``.

    Raises:
        ConfigError: there is no such optimizer or option, or a number is out of range.
    """
    name, options = parse_choice(text)
    optimizer = OPTIMIZERS.get(name)
    if optimizer is None:
        found = find(Kind.SERVER_OPTIMIZER, name, known=("auto", *OPTIMIZERS))
        optimizer = _own().as_optimizer(found, name=name)
    return with_options(optimizer, options, what=f"server optimizer '{name}'")


def _own():
    from plait.aggregation import own_rule  # few runs have parts of their own

    return own_rule


def check_rule(rule: Rule, server: Geometry, *, cohort: Collection[Geometry] = (), clients: int | None = None) -> None:
    """Refuse a rule that does not work with this adapter, clients' geometries and so many updates (ConfigError).

    An empty `cohort` means that all have the master's geometry.
    """
    rule.check_adapter(server)
    for mine in (pair for client in cohort if client.pairs != server.pairs for pair in client.pairs):
        ours = server.by_module.get(mine.module)
        if ours and (fault := rule.ranks.fault(mine, ours)):
            takes = "holds no further slices" if rule.mixed_ranks else "averages factors directly: give one rank"
            raise ConfigError(f"rule is '{rule.name}' with clients of rank {mine.rank}, and it {takes}: {fault}")
    if clients is not None and clients < rule.least_clients:
        raise ConfigError(
            f"rule is '{rule.name}' with {clients} clients in a round, expected at least {rule.least_clients}: "
            "with fewer it tolerates no bad client"
        )


def rule_stated(
    rule: Rule, text: str = "", *, one_rank: bool = True, others: Mapping[str, Rule] | None = None
) -> Stated:
    """What a rule, as the user named it, needs of a run and takes away, and `others` to suggest in its place."""

    def rest() -> Iterator[Stated]:
        return (rule_stated(other, one_rank=one_rank) for other in (others or {}).values())

    return Stated("rule", text or rule.name, rule.needs, rule.removes(one_rank=one_rank), others=rest)


def method_stated(method: Method, text: str = "") -> Stated:
    """What an adapter method needs of a run and takes away."""

    def rest() -> Iterator[Stated]:
        return map(method_stated, METHODS.values())

    return Stated("method", text or method.name, {}, method.removes, others=rest)


def optimizer_stated(optimizer: ServerOptimizer, text: str = "") -> Stated:
    """What a server optimizer needs of a run and takes away: nothing if it uses the rule's step unchanged."""
    key, text, instead = "server-optimizer", text or optimizer.name, f"server-optimizer {Plain.name}"
    if optimizer.name == Plain.name:
        return Stated(key, text)
    return Stated(key, text, optimizer.needs, {}, instead)


def rules_for(method: Method) -> tuple[str, ...]:
    """Names of plait's own rules that may combine this method's adapters."""
    mine = method_stated(method)
    stated = {name: rule_stated(rule) for name, rule in RULES.items()}
    return tuple(name for name, each in stated.items() if not (clash(mine, each) or clash(each, mine)))
