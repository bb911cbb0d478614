"""Write chats of four people as JSONL, in the format of your own data for `plait simulate --data FILE`.

    python simulations/examples/make_chat.py chat.jsonl

Stands in for your chats: English questions and answers of chatterbot-corpus, each topic held by one person.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from plait.data import as_dataset

PEOPLE = {"tech_support": "ann", "trivia": "bob", "coding": "eve", "ai": "ida"}


def main() -> None:
    records = as_dataset("chatterbot", progress=print).records
    lines = [
        {
            "messages": [
                {"role": "user", "content": record.prompt},
                {"role": "assistant", "content": record.completion},
            ],
            "who": PEOPLE[record.columns["topic"]],
        }
        for record in records
        if record.columns["language"] == "english" and record.columns["topic"] in PEOPLE
    ]
    Path(sys.argv[1]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{sys.argv[1]}: {len(lines)} chats of {len(PEOPLE)} people; the first:\n{json.dumps(lines[0])}")


if __name__ == "__main__":
    main()
