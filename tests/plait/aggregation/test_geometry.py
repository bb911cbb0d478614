import dataclasses
import math

import pytest

from plait.adapters import Layout
from plait.aggregation.geometry import Side, geometry_of
from plait.errors import ConfigError

PREFIX = "base_model.model."


def test_a_and_b_of_a_module_make_a_pair_and_the_rest_is_other(lab):
    geometry = lab.geometry({"q": (7, 5)}, rank=2, alpha=6.0)
    (pair,) = geometry.pairs
    assert (pair.module, pair.rank, pair.d_in, pair.d_out, pair.scale) == (PREFIX + "q", 2, 5, 7, 3.0)
    assert [slot.name for slot in geometry.others] == [PREFIX + "score.weight"]
    assert geometry.side_size(Side.A) == 10
    assert geometry.side_size(Side.B) == 14
    assert geometry.others_size == 6


def test_the_scale_is_alpha_over_rank_or_over_its_root(lab):
    assert lab.geometry(rank=4, alpha=6.0).pairs[0].scale == 1.5
    assert lab.geometry(rank=4, alpha=6.0, use_rslora=True).pairs[0].scale == 3.0


def test_embeddings_and_convolutions_are_products_too(lab):
    spec = lab.spec({"q": (7, 5)})
    shapes = {
        "wte.lora_embedding_A": [2, 11],
        "wte.lora_embedding_B": [5, 2],
        "conv.lora_A.weight": [2, 3, 3, 3],
        "conv.lora_B.weight": [4, 2, 1, 1],
    }
    conv, wte = geometry_of(dataclasses.replace(spec, layout=Layout.of(shapes))).pairs
    assert (conv.d_out, conv.d_in, wte.d_out, wte.d_in) == (4, 27, 5, 11)


@pytest.mark.parametrize(
    ("shapes", "config", "message"),
    [
        ({"q.lora_A.weight": [2, 5]}, {}, "factor B of 'q' is missing"),
        ({"q.lora_A.weight": [2, 5], "q.lora_B.weight": [7, 3]}, {}, "rank of B on 'q' is 3, expected 2 as of A"),
        ({"q.lora_A.weight": [3, 5], "q.lora_B.weight": [7, 3]}, {}, "rank of 'q' is 3, expected 2"),
        ({"q.lora_A.weight": [2, 0], "q.lora_B.weight": [7, 2]}, {}, "a factor of 'q' is empty"),
        ({"q.lora_A.weight": [2, 5], "q.lora_B.weight": [7, 2]}, {"lora_alpha": math.inf}, "scale of 'q' is inf"),
    ],
    ids=["no-partner", "two-ranks", "not-declared", "empty", "infinite"],
)
def test_factors_that_are_no_pair_are_refused(lab, shapes, config, message):
    spec = lab.spec({"q": (7, 5)}, rank=2)
    spec = dataclasses.replace(spec, layout=Layout.of(shapes), peft_config={**spec.peft_config, **config})
    with pytest.raises(ConfigError, match=message):
        geometry_of(spec)
