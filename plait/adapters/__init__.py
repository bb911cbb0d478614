"""Adapter state, spec, base fingerprint and PEFT files; the lowest package, numpy only."""

from plait.adapters.fingerprint import fingerprint_base
from plait.adapters.method import Subject
from plait.adapters.peft import model_card, save_peft_directory
from plait.adapters.peft_settings import parse_spec
from plait.adapters.spec import AdapterSpec, AdapterTask, BaseReference, Parent, parents_from
from plait.adapters.state import AdapterState, Float32, Layout, TensorSlot, add, check_finite, norm, subtract

__all__ = [
    "AdapterSpec",
    "AdapterState",
    "AdapterTask",
    "BaseReference",
    "Float32",
    "Layout",
    "Parent",
    "Subject",
    "TensorSlot",
    "add",
    "check_finite",
    "fingerprint_base",
    "model_card",
    "norm",
    "parents_from",
    "parse_spec",
    "save_peft_directory",
    "subtract",
]
