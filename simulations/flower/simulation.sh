#!/usr/bin/env bash
# Flower's own simulation: the same two apps, every client in a Ray worker.
# Needs `pip install '.[flower-simulation]'` in the checkout.
#
#   simulation.sh FOLDER      everything is written to FOLDER; PORT chooses the SuperLink's port
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
CHECKOUT=$(cd "$HERE/../.." && pwd)
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
PORT=${PORT:-8000}
. "$HERE/quiet.sh"

export FLWR_HOME=$FOLDER/home
mkdir -p "$FLWR_HOME"
cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "plait"

[superlink.plait]
address = "127.0.0.1:$PORT"
insecure = true
END

# A SuperLink of our own: the one that flwr starts for the address ":local:" stays behind, detached, on port 39091.
cd "$FOLDER"
flower-superlink --simulation --insecure --host 127.0.0.1 --port "$PORT" >superlink.log 2>&1 &
superlink=$!
trap 'kill "$superlink" 2>/dev/null; wait' EXIT
until curl --silent --fail "http://127.0.0.1:$PORT/health" >/dev/null; do
    kill -0 "$superlink"
    sleep 0.2
done

# `num-supernodes` is plait's `clients`; `out` is read by every Ray worker, so it must be absolute.
cat "$HERE/run.toml" - >run.toml <<END
out = "$FOLDER/run"
END
flwr run "$CHECKOUT" --run-config run.toml --federation-config 'num-supernodes=2 client-resources-num-cpus=1' --stream
# The stream ends well for a failed run too; only the ledger tells.
grep -qs '"event":"run_finished"' "$FOLDER/run/ledger.jsonl" || { echo "the run failed: $FOLDER/*.log" >&2; exit 1; }
echo "run $FOLDER/run"
