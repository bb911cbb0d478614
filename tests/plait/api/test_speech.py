import pytest

import plait
from plait.errors import ConfigError

pytestmark = pytest.mark.slow


def test_the_model_is_given_with_its_adapter_and_no_network(finished, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model, tokenizer = plait.open_run(finished).load()
    inputs = tokenizer("def add(", return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    text = tokenizer.decode(written[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert plait.open_run(finished).generate("def add(", max_tokens=6) == [text]


def test_each_prompt_has_its_text_and_a_seed_repeats_it(finished):
    run = plait.open_run(finished)
    first = run.generate(["x = ", "The quick"], max_tokens=8, temperature=1.0, seed=3)
    assert len(first) == 2
    assert run.generate(["x = ", "The quick"], max_tokens=8, temperature=1.0, seed=3) == first
    assert run.generate(["x = ", "The quick"], max_tokens=8, temperature=1.0, seed=4) != first


def test_messages_are_answered_and_other_things_refused(finished):
    run = plait.open_run(finished)
    message = {"role": "user", "content": "hello"}
    assert len(run.generate([message], max_tokens=3)) == 1
    assert len(run.generate([[message], "x = "], max_tokens=3)) == 2
    with pytest.raises(ConfigError, match="'role' and 'content'"):
        run.generate([[{"role": "user"}]], max_tokens=3)


def test_a_base_that_is_gone_is_named_with_the_option_that_helps(finished, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        plait.open_run(finished).generate("x", base=tmp_path / "nowhere")
