import pytest

from plait.api.serving import Serving, load_serving, new_run_number
from plait.errors import ConfigError

SERVING = Serving(
    listen="[::1]:9440", kit='/kits/"odd" näme', metrics="", grace_s=30.0, run_number=new_run_number()
)  # fmt: skip


def test_what_was_saved_is_loaded(tmp_path):
    assert load_serving(tmp_path / "server.toml") is None
    SERVING.save(tmp_path / "server.toml")
    assert load_serving(tmp_path / "server.toml") == SERVING


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen = ", "is not TOML"),
        ('listen = "x"\n', "has other keys"),
        ('listen = "x"\nkit = ""\nmetrics = ""\ngrace-s = 30.0\nrun-number = "7"\n', "other keys or types"),
    ],
)
def test_what_is_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_serving(tmp_path / "server.toml")
