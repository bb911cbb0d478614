#!/usr/bin/env bash
# Personal adapters, two ways: each client keeps a half of its adapter to itself (fedsa), or trains one of its own over
# the frozen adapter of all. How evenly each way serves the clients is in the reports; one adapter is exported.
set -euo pipefail
out=${1:-runs/personal}
client=${2:-encodings}
same="--local-steps 8 --seq-len 64 --max-held-out-sequences 20 --base tiny"

for rule in fedavg fedsa; do
    plait simulate $same --clients 4 --rounds 6 --learning-rate 5e-3 --rule "$rule" --reference local --out "$out-$rule"
done
plait export "$out-fedsa" "$out-of-$client" --to peft --client "$client"

# On the client's own machine, with its own data: one client, and what all have learned stays as it is beneath.
python - "$client" "$out-$client.jsonl" <<'PYTHON'
import json, sys
from plait.data import cache_directory, load_dataset

records = load_dataset("stdlib", cache=cache_directory(), progress=print).records
lines = [json.dumps({"text": record.text}) for record in records if record.columns["package"] == sys.argv[1]]
open(sys.argv[2], "w").write("\n".join(lines))
PYTHON
plait simulate $same --data "$out-$client.jsonl" --clients 1 --rounds 3 --learning-rate 5e-3 \
    --init-adapter "$out-fedavg" --init-mode freeze --out "$out-over-all"
