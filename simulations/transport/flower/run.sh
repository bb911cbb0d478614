#!/usr/bin/env bash
# Flower's own engine on loopback, without TLS and node keys: a SuperLink, SuperNodes, and the app in this folder.
#
#   run.sh FOLDER NODES PORT      PORT is where the ServerApp is to call; it ends when that connection does
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
# Free ports: one for the SuperLink, one a node.
read -r -a ports < <(python3 - "$2" <<'END'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]) + 1)]
print(*(each.getsockname()[1] for each in sockets))
END
)
# No telemetry, no question for updates, no environment of its own for every run.
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
export FLWR_HOME=$FOLDER/home
mkdir -p "$FLWR_HOME"
cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:${ports[0]}"
insecure = true
END
cp -r "$HERE/pyproject.toml" "$HERE/echo" "$FOLDER/"
cd "$FOLDER"
started=()
trap 'kill "${started[@]}" 2>/dev/null; wait' EXIT
flower-superlink --insecure --host 127.0.0.1 --port "${ports[0]}" >superlink.log 2>&1 &
started+=($!)
until curl --silent --fail "http://127.0.0.1:${ports[0]}/health" >/dev/null; do
    kill -0 "${started[0]}"
    sleep 0.2
done
for port in "${ports[@]:1}"; do
    FLWR_HOME=$FOLDER/node-$port flower-supernode --insecure --superlink "127.0.0.1:${ports[0]}" --port "$port" \
        >"node-$port.log" 2>&1 &
    started+=($!)
    # One after the other: on a busy machine a node that starts beside another gives up.
    until grep -qs "SuperNode ID" "node-$port.log"; do
        kill -0 "${started[-1]}"
        sleep 0.2
    done
done
flwr run . --run-config "port=$3 nodes=$2" --stream >run.log 2>&1
