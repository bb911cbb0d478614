import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from plait.config import config_from_table, known_keys
from plait.errors import ConfigError
from plait.known_features import own_features
from plait.plugins import Kind, reference
from plait.settle import settle
from plait.traits import Stated, Trait, check, clash, taken

ROOT = Path(__file__).parents[2]
NEEDS = Stated("keep", "best", needs={Trait.FIGURES: "losses are compared"}, instead="keep last")
TAKES = Stated("mask", True, takes={Trait.FIGURES: "sums alone are seen"})


def _mine(logits: object, labels: object, adapter: object) -> object:
    """A loss."""
    return logits


OWN_LOSS = reference(Kind.LOSS, _mine)


def test_parts_that_take_nothing_from_each_other_pass():
    check(())
    check((NEEDS,))
    check((TAKES,))
    check((NEEDS, Stated("fleet", "x.toml", needs={Trait.FIGURES: ""}, takes={Trait.WAITS: ""})))


@pytest.mark.parametrize("stated", [(NEEDS, TAKES), (TAKES, NEEDS)])
def test_a_refusal_names_both_parts_the_trait_both_reasons_and_what_would_do(stated):
    with pytest.raises(ConfigError) as refused:
        check(stated)
    assert str(refused.value) == (
        "keep is 'best' and mask is true, expected keep last or another mask: keep needs that the server may use "
        "losses, counts and times of single clients (losses are compared), but sums alone are seen"
    )


def test_a_part_may_take_what_it_needs_and_no_second_one_then_does():
    own, second = (
        Stated(key, "x", needs={Trait.OWN_LOSS: ""}, takes={Trait.OWN_LOSS: "it has one"}) for key in ("a", "b")
    )
    check((own,))
    check((own, Stated("a", "x", needs={Trait.OWN_LOSS: ""})))  # the same part
    with pytest.raises(ConfigError, match="a is 'x' and b is 'x'"):
        check((own, second))


def test_those_that_would_do_in_place_of_a_part_are_named():
    others = (NEEDS, Stated("keep", "some"), Stated("keep", "none", takes={Trait.WAITS: ""}))
    keep = Stated("keep", "best", NEEDS.needs, others=lambda: others)
    waits = Stated("waits", 1, needs={Trait.WAITS: ""})
    with pytest.raises(ConfigError, match="expected keep some, none or another mask"):
        check((keep, TAKES))
    with pytest.raises(ConfigError, match="expected keep some or another mask"):
        check((keep, TAKES, waits))


def test_a_value_with_characters_that_do_not_print_makes_one_line():
    with pytest.raises(ConfigError) as refused:
        check((NEEDS, Stated("rule", "a\n\x1b[2J", takes={Trait.FIGURES: "gone\n"})))
    assert str(refused.value).isprintable()


def test_what_is_gone_is_what_any_part_takes():
    assert taken((NEEDS, TAKES)) == {Trait.FIGURES}
    assert clash(NEEDS, TAKES) is Trait.FIGURES
    assert clash(TAKES, NEEDS) is None


def sources() -> Iterator[tuple[str, str]]:
    for part in ("plait", "server", "client"):
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_every_trait_is_needed_by_some_part_and_taken_by_another():
    used = Counter(
        trait
        for name, source in sources()
        if name != "plait/traits.py"
        for trait in re.findall(r"\bTrait\.(\w+)", source)
    )
    assert [trait.name for trait in Trait if used[trait.name] < 2] == []


# Functions that refuse two settings by hand, because one is a number that the other bounds, …
NUMBERS = {
    "plait/features/asynchronous/settings.py:check_clients",
    "plait/config.py:_check_numbers",
    "plait/features/privacy/mechanism.py:multiplier_for",
    "plait/features/secagg/rounds.py:noised_grid",
    "plait/features/privacy/settings.py:check_clients",
    "plait/features/secagg/settings.py:check_clients",
}
# … or a key, data or a machine is not what was expected, …
OTHERS = {
    "plait/config.py:key_named",
    "plait/features/asynchronous/way.py:check",
    "plait/simulation/drawn_partition.py:_groups",
}
# … and those of two parts of a run, of which there are to be ten at most.
PAIRS = {
    "plait/config.py:_check_combinations",  # a setting without that which gives it a meaning (`Table.within`)
    "plait/features/corrections/run.py:settles",  # FedDyn has a server step of its own
    "plait/features/stacking/starting.py:_composed",
    "plait/training/qlora.py:check_four_bits",  # what a machine can hold in four bits
    "client/settings.py:check_device",  # an operator's own
}


def test_two_settings_are_refused_by_hand_in_at_most_ten_places():
    found = {f"{name}:{function}" for name, source in sources() for function in refusing(source)}
    assert found | {"plait/config.py:_check_combinations"} == NUMBERS | OTHERS | PAIRS
    assert len(PAIRS) <= 10


def refusing(source: str) -> Iterator[str]:
    """The functions that raise an error whose text names two settings, or states them with `says`."""
    for function in ast.walk(ast.parse(source)) if "raise " in source else ():
        if not isinstance(function, ast.FunctionDef):
            continue
        for raised in ast.walk(function):
            if isinstance(raised, ast.Raise) and raised.exc and len(named(raised.exc)) > 1:
                yield function.name


KEYS = known_keys(tuple(own_features().values()))
LONG = re.compile(
    rf"(?<![\w-])({'|'.join(sorted((key for key in KEYS if '-' in key), key=len, reverse=True))})(?![\w-])"
)
# A key that is a plain word is one where a value follows.
SHORT = re.compile(rf"(?<![\w-])({'|'.join(key for key in KEYS if '-' not in key)}) (?:is\b|are\b|')")


def named(error: ast.expr) -> set[str]:
    """The settings that an error names, in its text or by `Table.says`."""
    nodes = list(ast.walk(error))
    text = "\0".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    says = {ast.unparse(node) for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.says"}
    return {*LONG.findall(text), *SHORT.findall(text), *says}


NOISE = {"dp-noise-multiplier": 1.0, "dp-clip": 1.0}
VALUES: tuple[dict[str, object], ...] = (
    {"rule": "median"}, {"rule": "fedsvd"}, {"rule": "flexlora"}, {"rule": "rolora"}, {"rule": "zeropad"},
    {"method": "qlora"}, {"server-optimizer": "sgd"},
    {"server-optimizer": "line_search"}, {"correction": "scaffold"}, {"correction": "feddyn"}, {"objective": "dpo"},
    {"loss": OWN_LOSS}, {"trainer": "mine:build"}, {"own-share": 0.3}, {"labels": "a,b"},
    {"weighting": "examples"}, {"device": "cpu,cpu"},
    {"clients-per-round": 10}, {"over-selection": 0.5}, {"deadline-s": 5.0}, {"step-budget": "speed"},
    {"rounds-mode": "async"}, {"fleet": "x.toml"}, {"norm-bound": 10}, {"dp": "client", **NOISE},
    {"dp": "record", **NOISE}, {"secure-aggregation": True}, {"keep": "best"}, {"patience": 2},
    {"lr-schedule": "slope"}, {"max-grad-norm": 0.5},
)  # fmt: skip
# FedDyn's server step, and gradients that are clipped record by record.
BY_HAND = 6


def test_of_all_pairs_of_settings_that_are_refused_the_declarations_refuse_all_but_a_few():
    by_hand: list[str] = []
    for one, other in combinations(VALUES, 2):
        if one.keys() & other.keys():
            continue
        try:
            settle(config_from_table({"clients": 100, **one, **other}))
        except ConfigError as error:
            if " needs that " not in str(error):
                by_hand.append(str(error))
    assert len(by_hand) <= BY_HAND, by_hand
