#!/usr/bin/env bash
# Personal adapters, three ways: each client ends with its own beside the shared one (the default), keeps a half of it to
# itself (fedsa), or trains one over the frozen adapter of all. The reports say how evenly each serves; one is exported.
set -euo pipefail
out=${1:-runs/personal}
client=${2:-encodings}
same="--local-steps 8 --seq-len 64 --max-held-out-sequences 20 --base tiny"

plait simulate $same --clients 4 --rounds 6 --reference local --out "$out"
plait simulate $same --clients 4 --rounds 6 --rule fedsa --out "$out-fedsa"
plait export "$out" "$out-of-$client" --to peft --client "$client"

# On the client's own machine, with its own data: one client, and what all have learned stays as it is beneath.
python - "$client" "$out-$client.jsonl" <<'PYTHON'
import json, sys
from plait.data import as_dataset, cache_directory

records = as_dataset("stdlib", progress=print).records
lines = [json.dumps({"text": record.text}) for record in records if record.columns["package"] == sys.argv[1]]
open(sys.argv[2], "w").write("\n".join(lines))
PYTHON
plait simulate $same --data "$out-$client.jsonl" --clients 1 --rounds 3 \
    --init-adapter "$out" --init-mode freeze --out "$out-over-all"
