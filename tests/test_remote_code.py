"""No base's own code is run: everything is loaded with an explicit refusal, and a planted module stays unread."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plait.training.bases import locate_base

ROOT = Path(__file__).parent.parent
# Those that look for `auto_map` in a base's config or tokenizer.
_LOADS = {"from_pretrained", "from_config"}
_OWNERS = ("Auto", "AUTO_CLASSES", "auto_class", "PreTrained", "Tokenizer")
_TREES = ("plait", "server", "client", "simulations", "tests")


def _calls(path: Path) -> list[tuple[int, ast.Call]]:
    tree = ast.parse(path.read_text())
    return [
        (node.lineno, node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LOADS
        and any(owner in ast.unparse(node.func.value) for owner in _OWNERS)
    ]


def _trusts(call: ast.Call) -> bool:
    return any(
        keyword.arg == "trust_remote_code" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        for keyword in call.keywords
    )


@pytest.mark.slow
def test_every_call_that_loads_a_base_says_that_its_code_is_not_trusted():
    calls = [
        (path, line, call)
        for tree in _TREES
        for path in sorted((ROOT / tree).rglob("*.py"))
        for line, call in _calls(path)
    ]
    assert len(calls) > 30
    assert [f"{path.relative_to(ROOT)}:{line}" for path, line, call in calls if not _trusts(call)] == []


def test_a_call_without_it_is_found(tmp_path):
    source = "AutoTokenizer.from_pretrained(x)\nAutoModel.from_pretrained(x, trust_remote_code=True)\n"
    (tmp_path / "new.py").write_text(source)
    assert [line for line, call in _calls(tmp_path / "new.py") if not _trusts(call)] == [1, 2]


_PLANTED = """
from pathlib import Path
Path(__file__).with_name("MARKER").write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    pass
class Model(LlamaForCausalLM):
    pass
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "one_of_its_own"])
def test_a_base_with_code_of_its_own_neither_asks_nor_runs_it(tmp_path, model_type):
    base = tmp_path / "base"
    shutil.copytree(locate_base("tiny").directory, base)
    (base / "planted.py").write_text(_PLANTED)
    config = json.loads((base / "config.json").read_text())
    classes = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}
    (base / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": classes}))
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "planted.Tokenizer"]}
    (base / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "data.jsonl").write_text("".join(f'{{"text": "def f{n}(x): return x + {n}"}}\n' * 9 for n in range(20)))
    command = [
        sys.executable, "-c", "from plait.cli.main import main; main()", "simulate", "--base", str(base),
        "--data", "data.jsonl", "--clients", "2",
        "--rounds", "1", "--local-steps", "1", "--batch-size", "1", "--gradient-accumulation-steps", "1",
        "--seq-len", "16", "--rank", "2", "--out", "run",
    ]  # fmt: skip
    # Who was asked would say yes.
    done = subprocess.run(
        command, cwd=tmp_path, input="y\ny\ny\n", capture_output=True, text=True, timeout=600, check=False
    )
    said = done.stdout + done.stderr
    assert "trust_remote_code" not in said or done.returncode == 2, said
    assert "[y/N]" not in said
    assert done.returncode == (0 if model_type == "llama" else 2), said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("MARKER"))
