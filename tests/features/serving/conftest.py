"""A server on the tiny base with three random adapters, in this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import uvicorn
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from plait.adapters import Task
from plait.features.serving.app import Access, make_app
from plait.features.serving.catalogue import Catalogue
from plait.training.bases import LocatedBase, locate_base
from plait.training.device import Compute
from plait.training.export_weights import describe_base
from plait.training.serving import Engine, Limits

SETTINGS = {
    "formal": {"r": 2, "lora_alpha": 8, "target_modules": "all-linear"},
    "casual": {"r": 5, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True},
    "terse": {"r": 3, "lora_alpha": 9, "target_modules": "all-linear", "rank_pattern": {"down_proj": 7}},
}


@dataclass(frozen=True)
class Server:
    url: str
    catalogue: Catalogue
    engine: Engine


@pytest.fixture(scope="session")
def tiny() -> LocatedBase:
    return locate_base("tiny")


@pytest.fixture(scope="session")
def write_adapter(tiny: LocatedBase) -> Callable[..., Path]:
    def write(folder: Path, *, seed: int, **settings: object) -> Path:
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.15)
        model.save_pretrained(folder, save_embedding_layers=False)
        return folder

    return write


@pytest.fixture(scope="session")
def adapters(write_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: write_adapter(tmp_path_factory.mktemp(name), seed=seed, **settings)
        for seed, (name, settings) in enumerate(SETTINGS.items())
    }


@pytest.fixture(scope="session")
def alone(tiny: LocatedBase) -> Callable[..., str]:
    """What plain PEFT with one adapter and nothing else writes greedily."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.directory, trust_remote_code=False)

    def write(adapter: Path | None, prompt: str, count: int) -> str:
        model = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        start = tokens.shape[1]
        with torch.no_grad():
            for _ in range(count):
                tokens = torch.cat([tokens, model.eval()(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
        return tokenizer.decode(tokens[0, start:], skip_special_tokens=True)

    return write


@pytest.fixture
def start(tiny: LocatedBase) -> Iterator[Callable[..., Server]]:
    """Start a server on a free port."""
    running: list[tuple[uvicorn.Server, threading.Thread, Engine]] = []

    def begin(adapters: dict[str, Path], *, access: Access | None = None, **limits: int) -> Server:
        engine = Engine(tiny.directory, Compute(torch.device("cpu"), torch.float32), Limits(**limits))
        shape = describe_base(tiny.directory, Task.CAUSAL_LM)
        catalogue = Catalogue(engine, tiny, shape, base_name="tiny")
        for name, place in adapters.items():
            catalogue.load(name, place)
        config = uvicorn.Config(make_app(engine, catalogue, access or Access()), log_level="error", ws="none")
        listener = _free_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        engine.start()
        thread.start()
        running.append((server, thread, engine))
        return Server(f"http://127.0.0.1:{listener.getsockname()[1]}", catalogue, engine)

    yield begin
    for server, thread, engine in running:
        server.should_exit = True
        engine.close()
        thread.join()


def _free_socket() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener
