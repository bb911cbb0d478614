"""The loop with PEFT of simulations/field, unchanged and with a few lines changed.

python simulations/loops/peft.py --json
python simulations/loops/peft.py --json --works smollm2 --seeds 0
"""

import sys
from pathlib import Path

from loops import report, rows

BEGINNING = """\
work.finished(0, shared)
down, ends = plait.Broadcaster(), {each: (plait.Receiver(), plait.Compressor()) for each in work.clients}
"""
ROUND = """\
    updates, weights = [], []
    down.update(shared, gap=len(work.clients) / work.told["per_round"])
"""
CLIENT = """\
        receiver, sender = ends[client]
        received = receiver.decode(work.sent(number, client, "down", down.encode(receiver.holds)), shared)
"""
ANSWER = """\
        change = sender.encode({name: trained[name] - received[name] for name in trained})
        updates.append(plait.decompress(work.sent(number, client, "up", change), shared))
"""
END = "    shared = {name: shared[name] + change for name, change in mean(updates, weights).items()}\n"
EDITS = {
    "run.py": [
        ("from work import", "import plait\nfrom work import"),
        ("work.finished(0, shared)\n", BEGINNING),
        ("    updates, weights = [], []\n", ROUND),
        ('        received = load(work.sent(number, client, "down", save(shared)))\n', CLIENT),
        ('        updates.append(load(work.sent(number, client, "up", save(trained))))\n', ANSWER),
        ("    shared = mean(updates, weights)\n", END),
    ]
}

if __name__ == "__main__":
    report("peft", lambda: rows("peft", EDITS, Path(sys.executable)))
