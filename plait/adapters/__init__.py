"""Adapter state, spec, base fingerprint and PEFT files; the lowest package, numpy only."""

from plait.adapters.base_reference import BaseReference
from plait.adapters.fingerprint import fingerprint_base, parameter_count
from plait.adapters.layout import Layout, TensorSlot
from plait.adapters.methods import Subject
from plait.adapters.model_card import model_card
from plait.adapters.parent import Parent, parents_from
from plait.adapters.peft_directory import CARD_FILE, PeftAdapter, load_peft_directory, load_state, save_peft_directory
from plait.adapters.safetensors_file import (
    decode_safetensors,
    encode_safetensors,
    read_safetensors,
    write_safetensors,
)
from plait.adapters.spec import AdapterSpec, Json, Task
from plait.adapters.spec_request import SpecRequest, parse_spec
from plait.adapters.state import AdapterState, Float32, add, check_finite, is_small, norm, subtract

__all__ = [
    "CARD_FILE",
    "AdapterSpec",
    "AdapterState",
    "BaseReference",
    "Float32",
    "Json",
    "Layout",
    "Parent",
    "PeftAdapter",
    "SpecRequest",
    "Subject",
    "Task",
    "TensorSlot",
    "add",
    "check_finite",
    "decode_safetensors",
    "encode_safetensors",
    "fingerprint_base",
    "is_small",
    "load_peft_directory",
    "load_state",
    "model_card",
    "norm",
    "parameter_count",
    "parents_from",
    "parse_spec",
    "read_safetensors",
    "save_peft_directory",
    "subtract",
    "write_safetensors",
]
