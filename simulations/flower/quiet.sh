# Sourced by the scripts here: Flower and Ray neither phone home nor install anything, and find this checkout's
# commands.
export FLWR_TELEMETRY_ENABLED=0                        # no events to telemetry.flower.ai
export FLWR_DISABLE_UPDATE_CHECK=1                     # no question to api.flower.ai at every start
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1  # no `uv sync` of an environment of its own for every run
export RAY_USAGE_STATS_ENABLED=0                       # no usage report of Ray's
# Flower starts its parts by name (flower-superexec, flwr-serverapp, flwr-clientapp).
if [ -d "$CHECKOUT/.venv/bin" ]; then
    export PATH="$CHECKOUT/.venv/bin:$PATH"
fi
