from pathlib import Path

import pytest

from plait.adapters import BaseReference

FINGERPRINT = "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "mistralai/Mistral-7B-v0.3"])
def test_owner_and_model_make_a_hub_id(name: str) -> None:
    assert BaseReference(name, "main", FINGERPRINT).hub_id == name


@pytest.mark.parametrize(
    "name",
    ["/home/me/base", "./bases/tiny", "../base", "C:\\bases\\tiny", "smollm2-135m", "a/b/c", "a/b\n", "a/", "/a", ""],
)
def test_a_path_or_a_nickname_makes_none(name: str) -> None:
    assert BaseReference(name, None, FINGERPRINT).hub_id is None


def test_a_directory_that_reads_like_a_hub_id_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bases" / "tiny").mkdir(parents=True)
    assert BaseReference("bases/tiny", None, FINGERPRINT).hub_id is None


@pytest.mark.parametrize("fingerprint", ["", FINGERPRINT[1:], FINGERPRINT.upper(), FINGERPRINT + "\n"])
def test_anything_but_64_hexadecimal_digits_is_no_fingerprint(fingerprint: str) -> None:
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits"):
        BaseReference("owner/model", None, fingerprint)
