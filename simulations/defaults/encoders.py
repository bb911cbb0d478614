"""MiniLM's encoder, with its values, as bases of other architectures, whose new heads have two layers.

    python simulations/defaults/encoders.py DIR

writes `DIR/roberta` and `DIR/distilbert`. Both give the vectors of MiniLM, up to rounding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from plait.training.bases import locate_base

# DistilBERT's names, and BERT's.
NAMES = {
    "transformer.layer": "encoder.layer",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
POSITIONS = "embeddings.position_embeddings.weight"


def as_roberta(bert: BertModel) -> PreTrainedModel:
    """The same encoder as RoBERTa's, whose positions begin behind that of the padding token."""
    sizes = bert.config
    first = (sizes.pad_token_id or 0) + 1
    config = RobertaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size,
        max_position_embeddings=sizes.max_position_embeddings + first,
        type_vocab_size=sizes.type_vocab_size,
        layer_norm_eps=sizes.layer_norm_eps,
        pad_token_id=sizes.pad_token_id,
    )
    values = {name: value for name, value in bert.state_dict().items() if not name.startswith("pooler.")}
    unused = torch.zeros(first, sizes.hidden_size)
    values[POSITIONS] = torch.cat((unused, values[POSITIONS]))
    made = RobertaModel(config, add_pooling_layer=False)
    made.load_state_dict(values)
    return made


def as_distilbert(bert: BertModel) -> PreTrainedModel:
    """The same encoder as DistilBERT's, which has no kinds of tokens: the first kind's vector is in the positions."""
    sizes = bert.config
    config = DistilBertConfig(
        vocab_size=sizes.vocab_size,
        dim=sizes.hidden_size,
        n_layers=sizes.num_hidden_layers,
        n_heads=sizes.num_attention_heads,
        hidden_dim=sizes.intermediate_size,
        max_position_embeddings=sizes.max_position_embeddings,
        pad_token_id=sizes.pad_token_id,
    )
    given = bert.state_dict()
    made = DistilBertModel(config)
    values: dict[str, torch.Tensor] = {}
    for name in made.state_dict():
        known_as = name
        for own, other in NAMES.items():
            known_as = known_as.replace(own, other)
        values[name] = given[known_as]
    values[POSITIONS] = values[POSITIONS] + given["embeddings.token_type_embeddings.weight"][0]
    made.load_state_dict(values)
    return made


def main() -> None:
    """Write the bases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    folder = parser.parse_args().directory
    source = locate_base("minilm-l6", progress=print).directory
    bert = BertModel.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    for name, model in (("roberta", as_roberta(bert)), ("distilbert", as_distilbert(bert))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


if __name__ == "__main__":
    main()
