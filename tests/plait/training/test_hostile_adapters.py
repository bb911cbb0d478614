"""Hostile adapters, from a server as a spec and from a stranger as a directory, each given to a real process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peft import LoraConfig

from plait.adapters import AdapterState, AdapterTask
from plait.adapters.method import AdapterRequest
from plait.adapters.methods import METHODS
from plait.adapters.safetensors import encode_arrays
from plait.training.bases import LocatedBase
from plait.training.blueprint import design, read_base_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is in use"),
]

# Far more than all cases take on a busy machine; a single endless one goes beyond it.
_ENDLESS_S = 400
_BOMB = "(([a-z_]+)*[a-z._0-9]*)*X"  # on a module's name it does not end within a lifetime

_ANY_METHOD: list[tuple[str, dict[str, object]]] = [(method, {"modules_to_save": [_BOMB]}) for method in METHODS] + [
    (method, {"no_such_key": _BOMB}) for method in METHODS
]
_CASES: list[tuple[str, dict[str, object]]] = [
    *_ANY_METHOD,
    ("lora", {"target_modules": _BOMB}),
    ("lora", {"target_modules": [_BOMB]}),
    ("lora", {"exclude_modules": _BOMB}),
    ("lora", {"exclude_modules": [_BOMB]}),
    ("lora", {"layers_to_transform": [0], "layers_pattern": _BOMB}),
    ("lora", {"layers_to_transform": [0], "layers_pattern": [_BOMB]}),
    ("lora", {"target_modules": [f"l{n}" for n in range(50_000)]}),
    ("ia3", {"feedforward_modules": _BOMB}),
    ("lora", {"r": 200_000}),
    ("lora", {"r": 1 << 30}),
    ("lora", {"r": 4096}),
    ("vera", {"r": 1 << 30}),
    ("peanut", {"r": 1 << 20}),
    ("peanut", {"depth": 100_000_000}),
    ("peanut", {"r": 2048, "depth": 8}),
    ("bottleneck", {"r": 1 << 20}),
    ("bottleneck", {"r": 4096, "target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    ("bottleneck", {"act_fn": "__import__"}),
    ("bottleneck", {"target_modules": ["embed_tokens"]}),
    ("lora_xs", {"psoft_svd_lowrank_niter": 100_000_000}),
    ("lora_xs", {"psoft_orth": True, "use_cayley_neumann": True, "num_cayley_neumann_terms": 1 << 30}),
    ("lora", {"init_lora_weights": "pissa_niter_100000000"}),
    ("lora", {"init_lora_weights": "pissa"}),
    ("lora", {"init_lora_weights": "corda", "corda_config": {"cache_file": "PLANTED/tokenizer.json"}}),
    ("lora", {"loftq_config": {"loftq_iter": 1 << 30}, "init_lora_weights": "loftq"}),
    ("lora", {"layer_replication": [[0, 4]] * 100_000}),
    ("lora", {"trainable_token_indices": list(range(100))}),
    ("lora", {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}),
    ("prompt", {"num_virtual_tokens": 1 << 30}),
    ("prompt", {"num_virtual_tokens": "20"}),
    ("prompt", {"num_virtual_tokens": 4096, "token_dim": 65_536, "num_layers": 1024}),
    ("prefix", {"num_virtual_tokens": 1 << 30}),
    ("prefix", {"num_virtual_tokens": 4096, "token_dim": 65_536, "num_layers": 1024}),
    ("prefix", {"prefix_projection": True, "encoder_hidden_size": 1 << 30}),
    ("p_tuning", {"encoder_hidden_size": 1 << 30}),
    ("p_tuning", {"encoder_hidden_size": 65_536}),
    ("p_tuning", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 100_000}),
    ("lora", {"peft_type": "XLORA"}),
    ("lora", {"peft_type": "ADAPTION_PROMPT", "adapter_len": 1 << 30, "adapter_layers": 4}),
]
_NAMED = {f"{n}-{method}-{'-'.join(changed)}": (method, changed) for n, (method, changed) in enumerate(_CASES)}
_TEXT = {
    "prompt_tuning_init": "TEXT",
    "prompt_tuning_init_text": "hello",
    "tokenizer_name_or_path": "PLANTED",
}


def _settled(changed: dict[str, object], planted: Path) -> dict[str, object]:
    return json.loads(json.dumps(changed).replace("PLANTED", str(planted)))


def _run(mode: str, directory: Path, cases: list[tuple[str, object]]) -> dict[str, dict]:
    """What became of every case, by its name."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("take_hostile.py")), mode, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        out, err = child.communicate(json.dumps(cases), timeout=_ENDLESS_S)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        done = len(out.splitlines())
        pytest.fail(f"{cases[min(done, len(cases) - 1)][0]} never came to an end")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == len(cases), f"{cases[len(lines)][0]} ended the process: {err[-2000:]}"
    return {line["case"]: line for line in lines}


def _folder(tmp_path: Path, name: str, config: dict[str, object], state: AdapterState) -> tuple[str, str]:
    """A case of eval."""
    folder = tmp_path / "adapters" / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(encode_arrays(dict(state.items())))
    return name, str(folder)


def _check(told: dict[str, dict]) -> None:
    assert told.pop("honest") == {"case": "honest", "refused": "", "seen": []}
    assert told.pop("honest again")["refused"] == ""
    taken = [name for name, each in told.items() if not each["refused"]]
    broken = {name: each["refused"] for name, each in told.items() if each["refused"].startswith("!")}
    reached = {name: each["seen"] for name, each in told.items() if each["seen"]}
    assert (taken, broken, reached) == ([], {}, {})


@pytest.fixture(scope="module")
def specs(tiny: LocatedBase) -> dict[str, dict]:
    """The spec that plait itself writes for every method."""
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    made = {
        name: design(config, AdapterRequest(method=name), task=AdapterTask.CAUSAL_LM, seed=1, weights=tiny.directory)
        for name, method in METHODS.items()
        if not method.quantised
    }
    return {name: json.loads(blueprint.spec.text) for name, blueprint in made.items()}


@pytest.fixture
def planted(tiny: LocatedBase, tmp_path: Path) -> Path:
    """An unreadable directory, with a tokenizer in it."""
    folder = tmp_path / "planted"
    shutil.copytree(tiny.directory, folder)
    return folder


def test_no_spec_of_a_server_hangs_a_client_takes_its_memory_or_reaches_out(specs, planted, tmp_path):
    def spec(method: str, changed: dict[str, object]) -> dict:
        own = specs["lora" if method == "qlora" else method]
        return {**own, "peft_config": {**own["peft_config"], **_settled(changed, planted)}}

    cases = [(name, spec(*case)) for name, case in {**_NAMED, "text": ("prompt", _TEXT)}.items()]
    outside = [
        ("init_rank", {**specs["lora"], "init_rank": 1 << 30}),
        ("init_rank-large", {**specs["lora"], "init_rank": 4096}),
        ("init_seed", {**specs["lora"], "init_seed": 1 << 80}),
        ("labels", {**specs["lora"], "labels": [str(n) for n in range(100_000)]}),
        ("deep", {**specs["lora"], "peft_config": json.loads("[" * 900 + "]" * 900)}),
    ]
    honest = ("honest", specs["lora"])
    _check(_run("describe", tmp_path, [honest, *cases, *outside, ("honest again", specs["lora"])]))


def test_no_directory_of_a_stranger_hangs_eval_takes_its_memory_or_reaches_out(specs, planted, blueprint, tmp_path):
    honest = {**LoraConfig(r=4, lora_alpha=8).to_dict(), **blueprint.spec.peft_config}
    cases = [_folder(tmp_path, "honest", honest, blueprint.initial)]
    for name, (method, changed) in _NAMED.items():
        if changed == {"target_modules": _BOMB}:
            continue  # the names are in the tensors: see below
        own = specs["lora" if method == "qlora" else method]["peft_config"]
        cases.append(_folder(tmp_path, name, {**own, **_settled(changed, planted)}, blueprint.initial))
    cases.append(("honest again", cases[0][1]))
    _check(_run("eval", tmp_path, cases))


def test_neither_a_tokenizer_nor_a_regular_expression_that_a_directory_names_is_used(
    planted, tiny, blueprint, tmp_path
):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    made = design(config, AdapterRequest(method="prompt"), task=AdapterTask.CAUSAL_LM, seed=1, weights=tiny.directory)
    text = {**made.spec.peft_config, **_settled(_TEXT, planted), "tokenizer_kwargs": {"use_fast": True}}
    targets = {**blueprint.spec.peft_config, "target_modules": _BOMB}
    told = _run(
        "eval",
        tmp_path,
        [
            _folder(tmp_path, "honest", made.spec.peft_config, made.initial),
            _folder(tmp_path, "text", text, made.initial),
            _folder(tmp_path, "targets", targets, blueprint.initial),
        ],
    )
    assert [(each["refused"], each["seen"]) for each in told.values()] == [("", [])] * 3
