import threading

from plait.pace import growing, to_go


def test_the_rest_takes_as_long_as_the_pace_so_far_says():
    assert to_go(1, 4, 10) == "about 30 s to go"
    assert to_go(1, 11, 60) == "about 10 min to go"
    assert to_go(1, 100, 120) == "about 3 h 18 min to go"


def test_nothing_is_said_before_a_pace_is_known_or_when_all_is_done():
    assert to_go(0, 4, 10) == to_go(1, 4, 0.5) == to_go(4, 4, 10) == ""


def test_a_download_tells_how_much_has_arrived(tmp_path):
    (tmp_path / "before").write_bytes(bytes(5_000_000))
    said, told = [], threading.Event()

    def progress(text):
        said.append(text)
        if text.startswith("downloading toy: 2 of 4 MB"):
            told.set()

    with growing("downloading toy", tmp_path, 4_000_000, progress):
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / "toy.whl").write_bytes(bytes(2_000_000))
        assert told.wait(60)
    assert said[0] == "downloading toy"


def test_a_download_of_unknown_size_is_only_named(tmp_path):
    said = []
    with growing("downloading toy", tmp_path, 0, said.append):
        pass
    assert said == ["downloading toy"]
