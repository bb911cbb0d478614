"""How this machine trains: its devices, and how a step on a base fits into memory."""

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.errors import ConfigError
from plait.system import machine
from plait.training.bases import locate_config, quiet_libraries
from plait.training.blueprint import design, read_base_config
from plait.training.device import choose_compute, gpus, has_memory_of_its_own, matrix_gflops, memory_for_steps
from plait.training.memory_plan import SLACK, ModelSize, StepPlan, plan_step, size_of, what_would_fit
from plait.training.traced_memory import traced_bytes

Finding = tuple[str, ...]
"""What was looked at, what was found and, if something is missing, what to do."""


def devices() -> list[Finding]:
    """The GPUs, and how fast the device that is chosen multiplies."""
    compute = choose_compute()
    found = [(f"GPU {index}", f"{name}, {size / 1e9:.0f} GB") for index, (name, size) in enumerate(gpus())]
    if compute.device.type == "cpu":
        found = [("GPU", "none", "fine for SmolLM2-135M-Instruct; larger bases need CUDA (or Apple's MPS)")]
    return [
        ("device", f"{compute.device}, base in {compute.dtype_name}"),
        ("matrix product", f"{matrix_gflops(compute):,.0f} GFLOP/s in {compute.dtype_name}"),
        *found,
    ]


def plan_of(
    base: str,
    *,
    method: str,
    rank: int,
    batch_size: int,
    seq_len: int,
    memory_bytes: int,
    device: str,
    dtype: str,
) -> list[Finding]:
    """The plan of a step with so much memory, 0 for the device's; ConfigError where it is not known."""
    quiet_libraries()
    compute = choose_compute(device, dtype)
    config = read_base_config(locate_config(base), AdapterTask.CAUSAL_LM)
    spec = design(config, AdapterRequest(method=method, rank=rank), task=AdapterTask.CAUSAL_LM, seed=0).spec
    # A stated amount is taken for a card's, where there is no GPU to ask.
    stated_card = bool(memory_bytes) and device == "auto" and compute.device.type == "cpu"
    on_cpu = compute.device.type == "cpu" and not stated_card
    host = stated_card or has_memory_of_its_own(compute.device)
    value_bytes = compute.dtype.itemsize
    size = size_of(config, spec, value_bytes=value_bytes, on_cpu=on_cpu, host_has_room=host, seq_len=seq_len)
    budget = memory_for_steps(compute.device, memory_bytes) or machine.memory_bytes()
    memory = ("memory", f"{budget / 1e9:.1f} GB of {'the stated device' if memory_bytes else compute.device}")
    if size is None:
        try:
            base_bytes, held, peak = traced_bytes(
                config, spec, sequences=batch_size, seq_len=seq_len, dtype=compute.dtype, on_cpu=on_cpu
            )
        except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
            raise ConfigError(
                f"memory of '{method}' on a base of type {config.model_type} cannot be predicted; start with a small "
                "--batch-size"
            ) from error
        return [
            ("base", f"{base} in {compute.dtype_name}, {base_bytes / 1e9:.2f} GB"),
            _adapter(rank, spec.layout.size, held, on_cpu=on_cpu),
            memory,
            ("batch", f"{batch_size} x {seq_len}, by the model's own modules"),
            ("predicted peak", f"{peak / 1e9:.2f} GB" + ("" if SLACK * peak <= budget else ", does not fit")),
        ]
    plan = plan_step(size, batch=batch_size, seq_len=seq_len, budget=budget)
    fitting = "" if plan.fits else what_would_fit(size, seq_len=seq_len, budget=budget)
    held = "NF4 and " if size.four_bits else ""
    return [
        ("base", f"{base} in {held}{compute.dtype_name}, {size.base_bytes / 1e9:.2f} GB"),
        _adapter(rank, size.adapter, size.resident_bytes, on_cpu=on_cpu),
        memory,
        ("batch", f"{batch_size} x {seq_len}" + (f", in {plan.cuts} parts" if plan.cuts > 1 else "")),
        *_of_plan(plan, size, fitting),
    ]


def _adapter(rank: int, parameters: int, held: int, *, on_cpu: bool) -> Finding:
    beside = " and the libraries" if on_cpu else ""
    return "adapter", f"rank {rank}, {parameters:,} parameters, {held / 1e9:.2f} GB with the base{beside}"


def _of_plan(plan: StepPlan, size: ModelSize, fitting: str) -> list[Finding]:
    where = "in the host's memory" if plan.embedding_on_host else "on the device"
    if size.host_has_room and not size.embedding_may_leave:
        where += ", with the head: they are one matrix" if size.tied else ": the adapter changes it"
    return [
        ("blocks computed twice", f"{plan.recomputed} of {size.layers}"),
        ("logits at a time", f"{plan.slice_elements / 1e6:.0f} million"),
        ("input embedding", f"{size.embedding_bytes / 1e9:.2f} GB, {where}"),
        (
            "predicted peak",
            f"{plan.peak_bytes / 1e9:.2f} GB" + ("" if plan.fits else ", does not fit"),
            f"what would fit: {fitting}" if fitting else "",
        ),
    ]
