"""Tasks of lm-evaluation-harness: local task files, against the harness's own Hugging Face backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

needs_harness = pytest.mark.extra("eval")
# Of what the harness itself imports.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CHOICE = """\
task: sum
dataset_path: json
dataset_kwargs:
  data_files: sums.jsonl
test_split: train
output_type: multiple_choice
doc_to_text: "def add_{{number}}(left, right):\\n    return"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
"""
TEXT = """\
task: prose
dataset_path: json
dataset_kwargs:
  data_files: sums.jsonl
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    choices = [" left + right", " left", " left - right\n", " lemon"]
    rows = [
        {"number": number, "choices": choices[number % 4 :] + choices[: number % 4], "answer": -number % 4,
         "text": f"def add_{number}(left, right):\n    return left + right\n" * 4}
        for number in range(8)
    ]  # fmt: skip
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sum.yaml").write_text(CHOICE)
    (folder / "prose.yaml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two clients with adapters of their own."""
    import plait

    folder = tmp_path_factory.mktemp("run")
    lines = [
        {"text": text * 3, "author": author}
        for number in range(20)
        for author, text in (
            ("ada", f"def add_{number}(left, right):\n    return left + right\n"),
            ("bob", f"The quick brown fox number {number} jumps over the lazy dog.\n"),
        )
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plait.simulate(
        data=folder / "data.jsonl", base="tiny", partition="natural:author", clients=2, rounds=1, local_steps=2,
        batch_size=2, seq_len=32, rank=2, own_share="0.9", learning_rate=0.02, out=folder / "run", quiet=True,
    )  # fmt: skip
    return folder / "run"


@pytest.mark.slow
@needs_harness
def test_figures_are_those_of_the_harness_s_own_backend(tasks: Path, run: Path, plait: Callable) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from plait.features.tasks.training.harness import Tasks, harness_model
    from plait.training.bases import locate_base

    given = ("--tasks", f"{tasks / 'sum.yaml'},{tasks / 'prose.yaml'}", "--dtype", "float32", "--batch-size", 3)
    ran = plait("eval", "--adapter", run, *given, "--client", "ada", "--client", "bob", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found.keys() == {"base", "adapter", "ada", "bob"}
    assert found["base"]["sum"]["samples"] == 8

    tiny = locate_base("tiny").directory
    tokenizer = AutoTokenizer.from_pretrained(tiny, trust_remote_code=False)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32", trust_remote_code=False)
    files = Tasks([str(tasks / "sum.yaml"), str(tasks / "prose.yaml")])
    for name in ("base", "adapter"):
        model = (base if name == "base" else PeftModel.from_pretrained(base, run / "adapter")).eval()
        backend = harness_model(model, tokenizer, batch_size=2, pad_token=0)
        del backend._loglikelihood_tokens  # the harness's own again
        expected = files.evaluate(backend, fewshot=None, limit=None)
        for task, metrics in expected.items():
            assert found[name][task] == pytest.approx(metrics, rel=1e-4), (name, task)
    # Every row is of its own adapter.
    assert len({scores["prose"]["word_perplexity"] for scores in found.values()}) == 4

    shown = plait("eval", "--adapter", run, "--tasks", tasks / "sum.yaml", "--limit", 4, "--num-fewshot", 1)
    assert shown.code == 0, shown.err
    assert next(line.split() for line in shown.out.splitlines() if "metric" in line) == [
        "task",
        "metric",
        "base",
        "adapter",
    ]


@needs_harness
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("task: sum\n", ""), "has no task, expected one"),
        (('doc_to_choice: "{{choices}}"\n', ""), "has no doc_to_choice, expected one"),
        (("{{number}}", "{{nombre}}"), "'nombre' is undefined"),
        (("sums.jsonl", "gone.jsonl"), "gone.jsonl"),
        (("test_split: train", "test_split: validation"), "cannot be evaluated: KeyError"),
        (("task: sum", "task: [sum"), "is not YAML, line"),
    ],
)
def test_a_task_file_with_a_hole_is_one_line(
    change: tuple[str, str], message: str, tasks: Path, run: Path, plait: Callable, tmp_path: Path
) -> None:
    assert change[0] in CHOICE
    (tmp_path / "sums.jsonl").write_text((tasks / "sums.jsonl").read_text())
    (tmp_path / "hole.yaml").write_text(CHOICE.replace(*change))
    ran = plait("eval", "--adapter", run, "--tasks", tmp_path / "hole.yaml", "--json")
    assert ran.code == 2
    assert ran.err.count("\n") == 1, ran.err
    assert message in ran.err


@pytest.mark.slow  # the harness reads an index of thousands of tasks
@needs_harness
def test_an_unknown_task_is_one_line(run: Path, plait: Callable) -> None:
    ran = plait("eval", "--adapter", run, "--tasks", "no_such_task", "--json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "'no_such_task', which is none of lm-evaluation-harness" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tasks", "x.yaml", "--data", "bbc"), "plait eval --tasks has no option --data"),
        (("--seq-len", "64", "--tasks=x.yaml"), "plait eval --tasks has no option --seq-len"),
        (("--data", "bbc", "--limit", "3"), "No such option '--limit'"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(options, message: str, plait: Callable) -> None:
    ran = plait("eval", "--adapter", "nothing", *options)
    assert ran.code == 2
    assert message in " ".join(ran.err.split())


def test_without_the_harness_the_line_says_how_to_get_it(plait: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plait.features.tasks.tasks.find_spec", lambda _: None)
    ran = plait("eval", "--adapter", "nothing", "--tasks", "arc_easy", "--json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "pip install 'plait[eval]'" in ran.err
