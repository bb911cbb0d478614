import html
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import AdapterSpec, BaseReference, Layout, Task, model_card
from plait.adapters.model_card import escaped

SPEC = AdapterSpec(
    method="lora",
    peft_config={"peft_type": "LORA", "r": 8, "lora_alpha": 16},
    task=Task.CAUSAL_LM,
    labels=(),
    layout=Layout.of({"a": [8, 400]}),
    init_seed=0,
)
BASE = BaseReference("owner/model", "v1", "ab" * 32)


def card(name: str = "run", spec: AdapterSpec = SPEC, base: BaseReference = BASE) -> str:
    return model_card(name=name, spec=spec, base=base, rounds=5, clients=8, base_loss=3.25, final_loss=2.5)


def front_matter(text: str) -> dict[str, object]:
    opening, block, _ = text.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(block)


def test_the_hub_finds_base_library_task_and_tags() -> None:
    assert front_matter(card()) == {
        "library_name": "peft",
        "base_model": "owner/model",
        "pipeline_tag": "text-generation",
        "tags": ["plait", "federated-learning", "lora"],
    }


def test_a_classifier_is_shown_with_its_labels() -> None:
    text = card(spec=replace(SPEC, task=Task.CLASSIFICATION, labels=("ham", "spam")))
    assert front_matter(text)["pipeline_tag"] == "text-classification"
    assert "| Labels | ham, spam |" in text
    assert 'AutoModelForSequenceClassification.from_pretrained("owner/model", revision="v1", num_labels=2)' in text


def test_the_page_holds_the_facts_of_the_run() -> None:
    text = card()
    for row in (
        "| Rank, alpha | 8, 16 |",
        "| Trainable parameters | 3,200 |",
        "| Rounds | 5 |",
        "| Clients | 8 |",
        "| Held-out loss of the base | 3.2500 |",
        "| Held-out loss with the adapter | 2.5000 |",
        f"| Base fingerprint | `{BASE.fingerprint}` |",
    ):
        assert row in text


def test_unknown_losses_have_no_row() -> None:
    assert "loss" not in model_card(name="run", spec=SPEC, base=BASE, rounds=0, clients=1)


def test_the_way_to_load_it_is_four_lines_of_python() -> None:
    code = card().split("```python\n")[1].split("\n```")[0]
    assert len(code.splitlines()) == 4
    compile(code, "card", "exec")


def test_a_local_path_stays_off_the_card() -> None:
    text = card(base=replace(BASE, name="/home/alice/secret/base"))
    assert "base_model" not in front_matter(text)
    assert "alice" not in text


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "x\n---\nbase_model: evil/model\n---",
        "![x](https://evil.example/track.png)",
        "[click](javascript:alert(1))",
        "run | 9 |\n| Rounds | 99",
        "```\n# heading",
        "&lt;b&gt;",
        "https://evil.example",
        "\u202egnp.exe",
    ],
)
def test_markup_in_a_name_or_a_label_stays_text(name: str) -> None:
    spec = replace(SPEC, task=Task.CLASSIFICATION, labels=(name, "b"))
    text, plain = card(name, spec), card("run", replace(spec, labels=("a", "b")))
    assert front_matter(text) == front_matter(plain)
    assert text.count("\n") == plain.count("\n")
    assert text.count("```") == plain.count("```") == 2
    assert [line.count("|") - line.count("\\|") for line in text.splitlines()] == [
        line.count("|") for line in plain.splitlines()
    ]
    assert not any(markup in text for markup in ("<", "![", "](", "://", "\u202e"))


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_markdown_shows_escaped_text_as_it_was_given(text: str) -> None:
    # CommonMark 0.31, sections 2.4 and 2.5: a backslash makes punctuation literal, an entity stands for its character.
    token = re.compile(r"(?P<entity>&(?:amp|lt|gt);)|\\(?P<escaped>[!-/:-@\[-`{-~])|(?P<plain>[^!-/:-@\[-`{-~])")
    result, shown, at = escaped(text), "", 0
    while at < len(result):
        match = token.match(result, at)
        assert match, f"markup at {result[at:]!r}"
        shown += html.unescape(match["entity"]) if match["entity"] else match["escaped"] or match["plain"]
        at = match.end()
    assert shown == "".join(character if character.isprintable() else " " for character in text)


def test_long_names_are_cut() -> None:
    assert escaped("x" * 1000) == "x" * 199 + "…"
