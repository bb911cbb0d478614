"""A client's policy, the TOML file that its operator writes."""

import tempfile
from pathlib import Path

from harness import instrumented, main

with instrumented():
    from plait.config import RunConfig
    from plait.errors import PlaitError
    from plait.policy import load_policy

HERE = Path(tempfile.mkdtemp(dir=Path("/dev/shm") if Path("/dev/shm").is_dir() else None))
FILE = HERE / "policy.toml"
RUN = RunConfig(base="tiny")


def parse(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        policy = load_policy(FILE)
        policy.check_run(RUN)
        policy.check_coverage(examples=16, tokens=2048)
        policy.check_upload(1e6)
        policy.check_download("base 'tiny'", 10**6)
    except PlaitError as error:
        if "\n" in str(error):
            raise ValueError(f"not one line: {error!a}") from error


SEEDS = [
    b'consent = "ask"\nmax-runs-per-week = 3\n',
    b'methods = ["lora"]\ntargets = ["q_proj"]\nfinest-wire = "2"\nmax-rank = 8\n',
    b'finest-wire = "nan"\nmax-download-gb = inf\n',
    b"min-examples = 9223372036854775807\nconsent = 'ask'\n[a]\nb = 1\n",
]

if __name__ == "__main__":
    main(parse, SEEDS)
