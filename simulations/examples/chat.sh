#!/usr/bin/env bash
# Your own chats: four people, SmolLM2-135M; then ask the model with their adapter and without.
set -euo pipefail
out=${1:-runs/chat}

python simulations/examples/make_chat.py "$out.jsonl"
plait simulate --data "$out.jsonl" --partition natural:who --clients 4 --rounds 2 --local-steps 6 --batch-size 8 --seq-len 64 \
    --max-held-out-sequences 12 --out "$out"
plait eval --adapter "$out" --data "$out.jsonl" --max-sequences 40
