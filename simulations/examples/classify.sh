#!/usr/bin/env bash
# Classification: news in five classes, unevenly spread over four clients, MiniLM; accuracy in the report.
set -euo pipefail
out=${1:-runs/news}

plait simulate --data bbc --base minilm-l6 --partition dirichlet:0.5 --clients 4 --rounds 4 --local-steps 4 --batch-size 8 \
    --seq-len 64 --method ia3 --max-held-out-sequences 25 --out "$out"
