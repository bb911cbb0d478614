import io
import json

from client.program import make_room
from client.settings import check_settings, memory_folder
from client.task import Journal, OfferedRun, Style


def test_an_operator_hears_what_earlier_runs_take(tmp_path):
    settings = check_settings(server="localhost:1", data="ada.jsonl", insecure=True, state=tmp_path)
    for number in range(2):
        folder = memory_folder(tmp_path, number, "ada")
        folder.mkdir(parents=True)
        (folder / "own").write_bytes(bytes(1000))
    screen = io.StringIO()
    make_room(OfferedRun(run_id=9, config={}, base_fingerprint=b""), settings, Journal(Style.JSON, screen))
    (said,) = map(json.loads, screen.getvalue().splitlines())
    assert (said["event"], said["runs"], said["bytes"]) == ("state", 2, 2000)
    assert f"'{tmp_path}' holds 2.00 kB of earlier runs (2)" in said["text"]
