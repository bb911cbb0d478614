"""A client's policy, the TOML file that its operator writes."""

from harness import SCRATCH, instrumented, main, one_line

with instrumented():
    from plait.config import RunConfig
    from plait.errors import PlaitError
    from plait.policy import load_policy

FILE = SCRATCH / "policy.toml"
RUN = RunConfig(base="tiny")


def parse(data: bytes) -> None:
    FILE.write_bytes(data)
    with one_line(PlaitError):
        policy = load_policy(FILE)
        policy.check_run(RUN)
        policy.check_coverage(examples=16, tokens=2048)
        policy.check_upload(1e6)
        policy.check_download("base 'tiny'", 10**6)


SEEDS = [
    b'consent = "ask"\nmax-runs-per-week = 3\n',
    b'methods = ["lora"]\ntargets = ["q_proj"]\nmax-bits = "2"\nmax-rank = 8\n',
    b'max-bits = "nan"\nmax-download-gb = inf\n',
    b"min-examples = 9223372036854775807\nconsent = 'ask'\n[a]\nb = 1\n",
]

if __name__ == "__main__":
    main(parse, SEEDS)
