#!/usr/bin/env bash
# Run the stock app on Flower's Ray simulation, from nothing to a saved adapter, and stop everything again.
#
#   run.sh FOLDER CLIENTS RUN.TOML      everything is written to FOLDER; PORT chooses the SuperLink's port
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
PORT=${PORT:-8765}
# No telemetry, no question for updates, no environment of its own for every run, no usage report.
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export RAY_USAGE_STATS_ENABLED=0 FLWR_HOME=$FOLDER/home
mkdir -p "$FLWR_HOME"
cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:$PORT"
insecure = true
END
cp -r "$HERE/pyproject.toml" "$HERE/stock" "$FOLDER/"
cp "$3" "$FOLDER/run.toml"
cd "$FOLDER"
flower-superlink --simulation --insecure --host 127.0.0.1 --port "$PORT" >superlink.log 2>&1 &
superlink=$!
trap 'kill "$superlink" 2>/dev/null; wait' EXIT
until curl --silent --fail "http://127.0.0.1:$PORT/health" >/dev/null; do
    kill -0 "$superlink"
    sleep 0.2
done
flwr run . --run-config run.toml --federation-config "num-supernodes=$2 client-resources-num-cpus=1" --stream
# The stream ends well for a failed run too.
test -s times.json || { echo "the run failed: $FOLDER/superlink.log" >&2; exit 1; }
