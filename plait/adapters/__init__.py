"""Adapter state, spec, base fingerprint and PEFT files; the lowest package, numpy only."""

from plait.adapters.base_reference import BaseReference
from plait.adapters.fingerprint import fingerprint_base, parameter_count
from plait.adapters.layout import Layout, TensorSlot
from plait.adapters.methods import Subject
from plait.adapters.model_card import model_card
from plait.adapters.parent import Parent, parents_from
from plait.adapters.peft_directory import CARD_FILE, save_peft_directory
from plait.adapters.safetensors_file import encode_safetensors, write_safetensors
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
    "SpecRequest",
    "Subject",
    "Task",
    "TensorSlot",
    "add",
    "check_finite",
    "encode_safetensors",
    "fingerprint_base",
    "is_small",
    "model_card",
    "norm",
    "parameter_count",
    "parents_from",
    "parse_spec",
    "save_peft_directory",
    "subtract",
    "write_safetensors",
]
