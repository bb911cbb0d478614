#!/usr/bin/env bash
# Personal adapters: each client keeps a half of its adapter to itself; how evenly it serves them, and one exported.
set -euo pipefail
out=${1:-runs/personal}

for rule in fedavg fedsa; do
    plait simulate --base tiny --clients 4 --rounds 6 --local-steps 8 --seq-len 64 --max-held-out-sequences 20 \
        --learning-rate 5e-3 --rule "$rule" --reference local --out "$out-$rule"
done
client=$(python -c 'import json, sys; print(max(json.load(open(sys.argv[1]))["held_out_loss_by_client"]))' "$out-fedsa/summary.json")
plait export "$out-fedsa" "$out-of-$client" --to peft --client "$client"
