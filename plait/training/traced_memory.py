"""How much memory a step by the model's own modules needs: one is traced on the meta device, without values.

It is to any base and adapter what `plait.training.memory_plan` is to the fused path.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

from plait.adapters import AdapterSpec
from plait.training.blueprint import meta_model
from plait.training.fused.kernels import NARROWEST_SLICE, SLICE_ELEMENTS_ON_CPU, SLICE_ELEMENTS_ON_GPU
from plait.training.memory_plan import FLOAT32, held_bytes
from plait.training.model_losses import MOST_LOGITS
from plait.training.peft_adapter import attach, peft_config_of


def traced_bytes(
    config: PretrainedConfig, spec: AdapterSpec, *, sequences: int, seq_len: int, dtype: torch.dtype, on_cpu: bool
) -> tuple[int, int, int]:
    """Bytes of the base, of what is held between steps, and the most during a step of a language model.

    Raises:
        Exception: what a module raises that needs values.
    """
    with torch.device("meta"):
        model = attach(meta_model(config, spec.task), peft_config_of(spec.peft_config), in_float32=False).to(dtype)
    base = dtype.itemsize * sum(each.numel() for each in model.parameters() if not each.requires_grad)
    tokens = torch.zeros((sequences, seq_len), dtype=torch.int64, device="meta")
    # A mask of all dimensions is taken as it is; the values of one of fewer would be looked at.
    mask = torch.zeros((1, 1, seq_len, seq_len), dtype=dtype, device="meta")
    with _Allocated(list(model.parameters())) as allocated:
        # The logits of one position: the loss of all is counted below.
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
        saved, allocated.most = allocated.now, 0
        logits.sum().backward()
    rows, words, width = sequences * seq_len, logits.shape[-1], cast("int", config.hidden_size)
    if rows * words > MOST_LOGITS:
        slice_elements = max(SLICE_ELEMENTS_ON_CPU if on_cpu else SLICE_ELEMENTS_ON_GPU, rows * NARROWEST_SLICE)
        loss = slice_elements * dtype.itemsize + rows * width * (2 * dtype.itemsize + FLOAT32)
    else:  # logits in both types, their logarithms, and both gradients
        loss = rows * words * (2 * dtype.itemsize + 3 * FLOAT32)
    held = held_bytes(base, adapter=spec.layout.size, words=words, value_bytes=dtype.itemsize, on_cpu=on_cpu)
    return base, held, held + max(saved + loss, allocated.most) + FLOAT32 * spec.layout.size


class _Allocated(TorchDispatchMode):
    """Bytes of the tensors that operations of the block made, now and at most; those of `known` are not counted."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = [each.untyped_storage() for each in known]
        self._seen = {id(each) for each in self._known}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count what it made."""
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and id(storage := each.untyped_storage()) not in self._seen:
                self._seen.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _freed(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self.now -= size
