"""How much memory a training step needs, and what it gives up beforehand to fit into less.

The calculation follows `fused`: on a CPU it is what the process has in memory, elsewhere what torch allocates. Of a
step and the sampling of its completions the larger counts.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import product
from typing import Self, cast

from transformers import PretrainedConfig

from plait.adapters import AdapterSpec
from plait.adapters.methods import is_quantised
from plait.errors import MachineError
from plait.objectives import objective_named
from plait.training.device import Compute, has_memory_of_its_own
from plait.training.fused.kernels import NARROWEST_SLICE, SLICE_ELEMENTS_ON_CPU, SLICE_ELEMENTS_ON_GPU
from plait.training.generate import PROMPT_TOKENS, ROWS
from plait.wire.settings import CROSS_ENTROPY, Settings

SLACK = 1.07
"""Memory that torch's allocator holds, over what tensors take."""
PREDICTION_ERROR = 0.1
"""Largest error of a prediction, as a fraction."""
SLICES = (SLICE_ELEMENTS_ON_GPU, SLICE_ELEMENTS_ON_GPU >> 2, SLICE_ELEMENTS_ON_GPU >> 4)
"""Logits of the loss that may exist at a time, in the order they are tried."""
_FUSED = ("llama", "mistral", "qwen2")
_BLOCK, _OUTER_BLOCK, _TABLE_BYTES = 64, 256, 1092  # of NF4 as bitsandbytes keeps it
PROCESS_BYTES = 450_000_000
"""What a training process has in memory besides: Python, the libraries, and what their kernels keep."""
_WORD_BYTES = 1_000  # that a tokenizer takes per word: 880 of Qwen2.5's, 1,000 of SmolLM2's, 1,280 of Gemma 3's
FLOAT32 = 4
"""Bytes per number of an adapter in training, whatever the base's type."""
MASTERS = 3 * FLOAT32
"""Bytes of a parameter in float32: the adapter, AdamW's two moments."""
_TAKING_A_STEP = 3 * FLOAT32  # the gradient, the values before the step, and the difference
_DRAWING = 2 * FLOAT32 + 2 * 8  # a logit's copy, scaled, and two in float64: before and after a step to a draw


@dataclass(frozen=True)
class Training:
    """What a training holds of its adapter, and what its steps cannot give up; by default, that of a plain run.

    Attributes:
        optimizes: whether there is a master with moments; an evaluation has none.
        stacked: copies of the factors, with a gradient each, of examples whose gradients are kept apart.
        copies: float32 vectors beside the master; `carried`: those in the host's memory.
        follows_slopes: each step is kept until the next gradient.
        accumulates: gradients are there when the second backward pass begins.
        whole: sequences that are computed at once whatever is given up.
        is_exact: nothing may be given up that changes the rounding.
        drawn: completions that are sampled side by side for a step; `judged`: for an evaluation.
    """

    optimizes: bool = True
    stacked: int = 0
    copies: int = 0
    carried: int = 0
    follows_slopes: bool = True
    accumulates: bool = False
    whole: int = 1
    is_exact: bool = False
    drawn: int = 0
    judged: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """A run's."""
        objective, private = objective_named(settings.objective), settings.records_are_private
        samples = objective.completions
        is_divided = objective.is_sum and settings.loss == CROSS_ENTROPY and not private
        # The completions of each prompt have a pass.
        passes = settings.gradient_accumulation_steps * (settings.batch_size if samples else 1)
        prompts = settings.batch_size * settings.gradient_accumulation_steps
        return cls(
            stacked=settings.batch_size if private else 0,
            # The origin of the proximal term.
            copies=settings.proximal > 0,
            # AdamW's two moments as they were before, and the movement.
            carried=2 * settings.carry_moments + settings.measures_slope,
            follows_slopes=settings.lr_schedule == "slope",
            accumulates=passes > 1 and not private,
            whole=objective.sequences * (1 if is_divided else settings.batch_size),
            is_exact=private,
            drawn=min(ROWS, prompts * samples),
            judged=min(ROWS, settings.max_held_out_sequences) if samples else 0,
        )

    @property
    def slices(self) -> tuple[int, ...]:
        """See `SLICES`."""
        return SLICES[: 1 if self.is_exact else None]


def steps_of(settings: Settings) -> tuple[int, int, Training]:
    """The batch of a run's step, in sequences, the length of each, and the training."""
    training, objective = Training.of(settings), objective_named(settings.objective)
    examples = 1 if objective.completions else settings.batch_size
    return max(examples * objective.sequences, training.whole), settings.seq_len, training


@dataclass(frozen=True)
class ModelSize:
    """Numbers that memory follows from, and where the embedding may lie; `inner` is the width of the gated product.

    `biases` are a block's parameters besides matrices and norms, `ranks` the sum over its pairs, `value_bytes` those of
    a weight or an activation; in `four_bits`, the blocks' matrices are in NF4.
    """

    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    heads: int
    words: int
    tied: bool
    adapted_embedding: bool
    biases: int
    value_bytes: int
    four_bits: bool
    adapter: int
    ranks: int
    on_cpu: bool = False
    host_has_room: bool = False
    training: Training = Training()

    @property
    def matrix(self) -> int:
        """Parameters of a block's matrices."""
        return self.width * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def embedding_bytes(self) -> int:
        """Of the input embedding."""
        return self.words * self.width * self.value_bytes

    @property
    def embedding_may_leave(self) -> bool:
        """Whether the input embedding, if it is nothing but looked up, may lie in the host's memory."""
        return self.host_has_room and not self.tied and not self.adapted_embedding

    @property
    def base_bytes(self) -> int:
        """Of the base, on the device."""
        held = _normal_float_bytes(self.matrix) + 7 * _TABLE_BYTES if self.four_bits else self.matrix * self.value_bytes
        block = held + self.value_bytes * (self.biases + 2 * self.width)
        return self.layers * block + self.embedding_bytes * (1 if self.tied else 2)

    @property
    def resident_bytes(self) -> int:
        """Of base, adapter and optimizer; on a CPU also of the process, and of what the training began with."""
        return held_bytes(
            self.base_bytes,
            adapter=self.adapter,
            words=self.words,
            value_bytes=self.value_bytes,
            on_cpu=self.on_cpu,
            training=self.training,
        )


def held_bytes(
    base: int, *, adapter: int, words: int, value_bytes: int, on_cpu: bool, training: Training = Training()
) -> int:
    """What a training process holds between steps, with a base of so many bytes; see `ModelSize.resident_bytes`."""
    each = MASTERS + FLOAT32 * training.copies
    if on_cpu:
        each += FLOAT32 * (1 + training.carried)
    held = base + adapter * (value_bytes * (1 + training.stacked) + training.optimizes * each)
    return held + PROCESS_BYTES + _WORD_BYTES * words if on_cpu else held


def _normal_float_bytes(values: int) -> int:
    scales = values // _BLOCK
    return values // 2 + scales + 4 * scales // _OUTER_BLOCK


def size_of(
    config: PretrainedConfig,
    spec: AdapterSpec,
    *,
    value_bytes: int,
    on_cpu: bool = False,
    host_has_room: bool = False,
    seq_len: int = 0,
    training: Training = Training(),
) -> ModelSize | None:
    """The numbers of a base with an adapter; None if this cannot predict them. A length of 0 is short enough."""
    if not _is_predictable(config, spec, seq_len):
        return None

    def number(name: str, otherwise: int = 0) -> int:
        return cast("int", getattr(config, name, None) or otherwise)

    heads, width = number("num_attention_heads"), number("hidden_size")
    head = number("head_dim", width // heads)
    keys = number("num_key_value_heads", heads) * head
    biased = config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))
    slots, layers = spec.layout.slots, number("num_hidden_layers")
    ranks = sum(slot.shape[0] for slot in slots if "lora_A" in slot.name)
    return ModelSize(
        layers=layers,
        width=width,
        inner=number("intermediate_size"),
        queries=heads * head,
        keys=keys,
        heads=heads,
        words=number("vocab_size"),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        adapted_embedding=any("embed" in slot.name for slot in slots),
        biases=heads * head + 2 * keys if biased else 0,
        value_bytes=value_bytes,
        four_bits=is_quantised(spec.method),
        adapter=spec.layout.size,
        ranks=-(-ranks // layers),
        on_cpu=on_cpu,
        host_has_room=host_has_room,
        training=training,
    )


def _is_predictable(config: PretrainedConfig, spec: AdapterSpec, seq_len: int) -> bool:
    """Whether a step on this base is that of the fused kernels, whose memory is known."""
    given = spec.peft_config
    return (
        config.model_type in _FUSED
        and given.get("peft_type", "LORA") == "LORA"
        and not (given.get("use_dora") or given.get("lora_dropout"))
        and seq_len <= (getattr(config, "sliding_window", None) or seq_len)
    )


@dataclass(frozen=True)
class StepPlan:
    """What a step gives up, and the most that tensors take then; with `cuts` a batch is computed in so many parts."""

    cuts: int
    recomputed: int
    slice_elements: int
    embedding_on_host: bool
    peak_bytes: int
    fits: bool


def peak_bytes(
    size: ModelSize,
    *,
    sequences: int,
    seq_len: int,
    recomputed: int,
    slice_elements: int = SLICE_ELEMENTS_ON_GPU,
    embedding_on_host: bool = False,
) -> int:
    """Most memory that tensors take during a step, or while its completions are sampled if that is more."""
    rows, each = sequences * seq_len, size.value_bytes
    row = rows * each  # bytes of a column
    recomputed = min(recomputed, size.layers)
    inputs = row * (size.width + size.ranks // 7)
    inside = row * (size.width + 2 * size.queries + 2 * size.keys + 2 * size.inner + size.ranks)
    inside += rows * size.heads * 4
    kept = size.layers - recomputed
    saved = size.layers * inputs + kept * inside + row * size.width

    elements = min(slice_elements, SLICE_ELEMENTS_ON_CPU) if size.on_cpu else slice_elements
    logits = min(max(elements, rows * NARROWEST_SLICE), rows * size.words)
    loss = rows * size.width * (each + 4) + logits * (each + 4)
    if size.on_cpu:
        # Compiled kernels read logits as they are; the gradient's part of a slice is a product of its own.
        loss = rows * size.width * (2 * each + 4) + logits * each
    # The gated product's gradients, and those of the block's output.
    gated = row * (5 * size.inner + 4 * size.width)
    opened = row * (size.inner + size.width) + _unpacked(size)
    back = max(gated, opened)
    again = recomputed * inputs + inside + back
    steady = max(saved + loss, saved + back if kept else 0, again + row * size.width if recomputed else 0)
    training, factors = size.training, each * max(1, size.training.stacked)
    kept_step = FLOAT32 * training.follows_slopes * training.optimizes
    # Of gradients that one pass makes, half are there when most of the rest is.
    steady += size.adapter * (factors // (1 if training.accumulates else 2) + kept_step)
    stepping = size.adapter * (factors + _TAKING_A_STEP)
    taken = size.resident_bytes + max(steady, stepping)
    return max(taken, sampling_bytes(size, seq_len=seq_len)) - embedding_on_host * size.embedding_bytes


def completions_bytes(size: ModelSize, *, rows: int, seq_len: int) -> int:
    """Keys and values of completions, and a copy of one layer's."""
    # Those of a layer are copied to have one more.
    return (2 * size.layers + 1) * size.keys * size.value_bytes * rows * seq_len


def sampling_bytes(size: ModelSize, *, seq_len: int) -> int:
    """Most memory while completions are sampled, for a step or an evaluation; 0 where none are."""
    evaluating = replace(size, training=Training(optimizes=False))
    return max(
        own.resident_bytes + completions_bytes(size, rows=rows, seq_len=seq_len) + _passing(size, rows, seq_len)
        if rows
        else 0
        for own, rows in ((size, size.training.drawn), (evaluating, size.training.judged))
    )


def _passing(size: ModelSize, rows: int, seq_len: int) -> int:
    """Most memory of a pass over prompts, or of a draw."""
    prompts = min(rows * seq_len, max(PROMPT_TOKENS, seq_len))
    prefill = prompts * size.value_bytes * (4 * size.inner + 4 * size.width + 2 * size.layers * size.keys)
    return max(prefill + _unpacked(size), rows * size.words * (size.value_bytes + _DRAWING))


def _unpacked(size: ModelSize) -> int:
    """Of the largest matrix of a block in four bits, with its scales, while it is used."""
    matrix = size.width * size.inner
    return matrix * size.value_bytes + matrix // _BLOCK * 4 if size.four_bits else 0


def plan_step(size: ModelSize, *, batch: int, seq_len: int, budget: float) -> StepPlan:
    """The plan that gives up least within a budget of bytes.

    First blocks are computed twice and the loss in slices, then the input embedding stays on the host, last the batch
    is computed in parts. Only slices and parts change the adapter, within rounding. For completions that do not fit a
    step gives up nothing: it would not help.
    """
    last = StepPlan(1, 0, SLICE_ELEMENTS_ON_GPU, False, 0, fits=False)
    sampled = sampling_bytes(size, seq_len=seq_len)
    whole, where = size.training.whole, (False, True) if size.embedding_may_leave else (False,)
    halvings = [1 << cut for cut in range((batch // whole - 1).bit_length() + 1)]
    for cuts, on_host in product(halvings, where):
        sequences = whole * -(-batch // (whole * cuts))
        accumulates = size.training.accumulates or cuts > 1
        cut = replace(size, training=replace(size.training, accumulates=accumulates))
        for recomputed, elements in product(range(size.layers + 1), size.training.slices):
            peak = peak_bytes(
                cut, sequences=sequences, seq_len=seq_len, recomputed=recomputed, slice_elements=elements,
                embedding_on_host=on_host,
            )  # fmt: skip
            last = StepPlan(cuts, recomputed, elements, on_host, peak, SLACK * peak <= budget)
            if last.fits:
                return last
            if peak == sampled - on_host * size.embedding_bytes:
                break
    return last


def plan_within(
    budget: float, config: PretrainedConfig, spec: AdapterSpec, steps: tuple[int, int, Training], compute: Compute
) -> StepPlan | None:
    """The plan of a run's steps within a budget; None where nothing is predicted, MachineError if nothing fits."""
    batch, seq_len, training = steps
    size = size_of(
        config,
        spec,
        value_bytes=compute.dtype.itemsize,
        on_cpu=compute.device.type == "cpu",
        host_has_room=has_memory_of_its_own(compute.device),
        seq_len=seq_len,
        training=training,
    )
    if size is None:
        return None
    plan = least = plan_step(size, batch=batch, seq_len=seq_len, budget=budget)
    if not plan.fits:
        # What cannot be cut is tried: its sequences may be shorter.
        size = over_one_sequence(size)
        least = plan_step(size, batch=1, seq_len=seq_len, budget=budget)
    if least.peak_bytes > budget * (1 + PREDICTION_ERROR):
        raise MachineError(
            f"a step over {seq_len} tokens a sequence needs {least.peak_bytes / 1e9:.1f} GB of {compute.device} and "
            f"may take {budget / 1e9:.1f} GB; what would fit: {what_would_fit(size, seq_len=seq_len, budget=budget)}"
        )
    return plan


def least_bytes(size: ModelSize, *, seq_len: int) -> int:
    """Most memory during a step that gives up all it can, over one sequence or as few as can be."""
    return peak_bytes(
        size,
        sequences=size.training.whole,
        seq_len=seq_len,
        recomputed=size.layers,
        slice_elements=size.training.slices[-1],
        embedding_on_host=size.embedding_may_leave,
    )


def what_would_fit(size: ModelSize, *, seq_len: int, budget: float) -> str:
    """What to change if not even one sequence fits, as the rest of a sentence."""
    smallest = SLACK * least_bytes(size, seq_len=seq_len)
    found: list[str] = []
    if longest := longest_that_fits(size, budget=budget):
        found.append(f"--seq-len {longest}")
    packed = longest_that_fits(replace(size, four_bits=True), budget=budget)
    if not size.four_bits and packed >= seq_len:
        found.append("--method qlora")
    return ", ".join((*found, f"{'or ' if found else ''}{smallest / 1e9:.1f} GB of memory"))


def longest_that_fits(size: ModelSize, *, budget: float) -> int:
    """The longest sequence, a multiple of 128, of which one fits if a step gives up all it can; 0 if none does."""
    lengths = range(128, (1 << 17) + 1, 128)
    return 128 * bisect_right(lengths, budget, key=lambda length: SLACK * least_bytes(size, seq_len=length))


def over_one_sequence(size: ModelSize) -> ModelSize:
    """The same in steps over one sequence, which no data need less than."""
    training = size.training
    drawn, judged = min(1, training.drawn), min(1, training.judged)
    return replace(size, training=replace(training, whole=1, accumulates=False, drawn=drawn, judged=judged))
