#!/usr/bin/env bash
# Personal adapters, two ways: each client ends with its own beside the shared one (the default), or keeps a half of it
# to itself (fedsa). The reports say how evenly each serves; one is exported.
set -euo pipefail
out=${1:-runs/personal}
client=${2:-encodings}
same="--local-steps 8 --seq-len 64 --max-held-out-sequences 20 --base tiny"

plait simulate $same --clients 4 --rounds 6 --reference local --out "$out"
plait simulate $same --clients 4 --rounds 6 --rule fedsa --out "$out-fedsa"
plait export "$out" "$out-of-$client" --to peft --client "$client"
