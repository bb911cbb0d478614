"""In the place of torch's attention over sequences of several lengths, which only a GPU has.

The same contract in plain operations, strict about what the kernel would misread.
"""

from itertools import pairwise
from typing import Any


def plain_varlen(
    q: Any, k: Any, v: Any, bounds: Any, bounds_k: Any, longest: int, longest_k: int,
    *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Any:  # fmt: skip
    """q: (rows, heads, width), k and v: (rows, key heads, width); each sequence on itself, causally."""
    import torch

    assert bounds is bounds_k
    assert longest == longest_k
    assert type(longest) is int
    assert bounds.dtype == torch.int32
    assert bounds.device == q.device
    assert window_size == (-1, 0), "causal"
    ends = bounds.tolist()
    lengths = [end - start for start, end in pairwise(ends)]
    assert ends[0] == 0
    assert ends[-1] == len(q) == len(k) == len(v)
    assert max(lengths) == longest
    assert all(x.stride(-1) == 1 for x in (q, k, v)), "the kernel reads heads as they lie"
    group = q.shape[1] // k.shape[1]
    assert enable_gqa == (group > 1)
    outs = []
    for q_one, k_one, v_one in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        keys, values = (x.repeat_interleave(group, dim=1) for x in (k_one, v_one))
        scores = scale * torch.einsum("ihw,jhw->hij", q_one, keys)
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        outs.append(torch.einsum("hij,jhw->ihw", scores.masked_fill(later, -torch.inf).softmax(dim=-1), values))
    return torch.cat(outs)
