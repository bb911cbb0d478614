#!/usr/bin/env bash
# Flower's deployment engine on loopback: a SuperLink and two SuperNodes with data of their own, TLS and node keys.
#
#   deployment.sh FOLDER NORTH.jsonl SOUTH.jsonl      everything is written to FOLDER; PORT chooses the first of 3 ports
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
CHECKOUT=$(cd "$HERE/../.." && pwd)
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
NORTH=$(realpath "$2") SOUTH=$(realpath "$3")
PORT=${PORT:-8000}
. "$HERE/quiet.sh"

"$HERE/certificates.sh" "$FOLDER/keys" 127.0.0.1 north south
cd "$FOLDER"
started=()
trap 'kill "${started[@]}" 2>/dev/null; wait' EXIT

# On the server's machine.
FLWR_HOME=$FOLDER/superlink flower-superlink --host 127.0.0.1 --port "$PORT" --enable-supernode-auth \
    --ssl-ca-certfile keys/ca.crt --ssl-certfile keys/superlink.crt --ssl-keyfile keys/superlink.key \
    >superlink.log 2>&1 &
started+=($!)

# The operator lets the two nodes in.
export FLWR_HOME=$FOLDER/operator
mkdir -p "$FLWR_HOME"
sed -e "s|127.0.0.1:8000|127.0.0.1:$PORT|" -e "s|/etc/plait|$FOLDER/keys|" "$HERE/config.toml" >"$FLWR_HOME/config.toml"
until curl --silent --fail --cacert keys/ca.crt "https://127.0.0.1:$PORT/health" >/dev/null; do
    kill -0 "${started[0]}"
    sleep 0.2
done
flwr supernode register keys/north.key.pub
flwr supernode register keys/south.key.pub

# What the two clients allow: this run is smaller than what the default policy takes.
echo 'min-tokens = 512' >policy.toml

# On the two clients' machines; --port is a node's own, on loopback, for the ClientApp that it starts.
node() {
    FLWR_HOME=$FOLDER/$1 flower-supernode --superlink "127.0.0.1:$PORT" --port "$2" \
        --root-certificates keys/ca.crt --auth-supernode-private-key "keys/$1.key" \
        --node-config "name=\"$1\" data=\"$3\" state=\"$FOLDER/state\" policy=\"$FOLDER/policy.toml\"" >"$1.log" 2>&1 &
    started+=($!)
}
node north $((PORT + 1)) "$NORTH"
node south $((PORT + 2)) "$SOUTH"

# The operator starts the run. `out` is a folder on the server's machine.
cat "$HERE/run.toml" - >run.toml <<END
out = "$FOLDER/run"
END
flwr run "$CHECKOUT" --run-config run.toml --stream
# The stream ends well for a failed run too; only the ledger tells.
grep -qs '"event":"run_finished"' "$FOLDER/run/ledger.jsonl" || { echo "the run failed: $FOLDER/*.log" >&2; exit 1; }
echo "run $FOLDER/run"
