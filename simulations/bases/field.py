"""plait beside a loop with PEFT and NVFlare's four bits at half a billion parameters, by the field's rules.

    python simulations/bases/field.py --seeds 1,2                          # adds rows to results-field*.jsonl
    python simulations/field/check.py simulations/bases/results-field.jsonl

Four clients hold a package of Emacs Lisp each; two rounds of four steps of 4 x 128 tokens. The others' rate is chosen
on other packages (results-field-choosing.jsonl); plait finds its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inputs import LISP_PACKAGES, base, lisp

sys.path.append(str(Path(__file__).parents[1] / "field"))

import run
from run import Field, cells, entrants
from works import FEDERATIONS, Federation, Row

HERE = Path(__file__).parent
CELLS = ("plait default", "peft best", "nvflare nf4 best")
run.RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # a higher one than the last, which diverges, was not worth the time
JUDGED, CHOOSING = LISP_PACKAGES[4:], LISP_PACKAGES[:2]


def of_packages(packages: tuple[str, ...]) -> Iterator[Row]:
    """The records of some packages."""
    for record in map(json.loads, Path(lisp()).read_text(encoding="utf-8").splitlines()):
        if record["package"] in packages:
            yield {"client": record["package"], "text": record["text"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="qwen-0.5b")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--cells", nargs="*", default=CELLS)
    parser.add_argument("--results", type=Path, default=HERE)
    options = parser.parse_args()
    for name, packages in (("field", JUDGED), ("field-choosing", CHOOSING)):
        FEDERATIONS[name] = Federation(
            name, lambda _, packages=packages: of_packages(packages), len(packages), base=base(options.base), rounds=2,
            held_out=16, judged_every=2, chosen_on="field-choosing",
        )  # fmt: skip
    every = {entrant.name: entrant for entrant in entrants()}
    cache = Path.home() / ".cache" / "plait-field"
    with tempfile.TemporaryDirectory(prefix="field-work-") as work:
        field = Field(every, cache, options.results, Path(work), [])
        for seed in map(int, options.seeds.split(",")):
            for title in options.cells:
                entrant, variant, setting = cells(list(every.values()))[title]
                rate = field.rate("field-choosing", entrant.chosen_by) if setting == "best" else None
                key = {"cell": f"{entrant.name} {variant}".strip(), "setting": setting, "seed": seed, "rate": rate}
                field.once("field", key, entrant, {"learning_rate": rate, "variant": entrant.variants[variant]})
    sys.exit(f"failed: {field.failed}" if field.failed else None)
