"""The ``plait`` command: its help, and what every verb does with errors.

Exit codes: 0 done; 2 usage or configuration; 3 a peer's bytes or a data file; 130 stopped; 1 anything else.
"""

import gc
import os
import platform
import sys

from plait.cli.verbs import short_help
from plait.errors import PlaitError, RunInterrupted, machine_fault
from plait.system.text import escaped, fitted

# Defaults that the user's environment overrides. No tool phones home because plait started it.
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # No Python that plait starts looks for modules in the current directory.
    "PYTHONSAFEPATH": "1",
    # gRPC's core logs every failed handshake to stderr; plait reports once, in words, what is wrong.
    "GRPC_VERBOSITY": "NONE",
}

# Idle threads spin for some microseconds, about as long as it takes to wake one, then sleep. With OpenMP's default they
# spin on and keep the threads they wait for off the processor as soon as anything else runs: small matrices then take a
# hundred times as long. GNU's OpenMP reads its own variable, others the policy.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

# numpy decomposes thin matrices here, for which OpenBLAS is several times faster with one thread than with two. Outside
# x86, torch may also use OpenBLAS.
_NUMPY = {"OPENBLAS_NUM_THREADS": "1"} if platform.machine() in ("x86_64", "AMD64") else {}

# New objects per run of the garbage collector: with Python's 700 it takes a fifth of the time of importing the
# libraries.
_COLLECT_EVERY = 50_000


def main() -> None:
    """Entry point of the ``plait`` command."""
    waiting = {} if any(key in os.environ for key in _WAITING) else _WAITING
    for key, value in {**_ENVIRONMENT, **_NUMPY, **waiting}.items():
        os.environ.setdefault(key, value)
    gc.set_threshold(_COLLECT_EVERY)
    try:
        if sys.argv[1:] in (["--help"], ["-h"]):
            print(short_help(), end="", flush=True)  # which needs no library
            return
        from plait.cli.app import run  # typer

        run(sys.argv[1:])
    except RunInterrupted as stopped:
        _complain(str(stopped))
        sys.exit(stopped.exit_code)
    except PlaitError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(RunInterrupted.exit_code)
    except BrokenPipeError:
        # The reader of the pipe has gone (`plait report RUN | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        fault = machine_fault(error)
        if fault is None and not isinstance(error, OSError):
            raise
        # For example a path that no system accepts; code that reads and writes files raises plait's own errors.
        _complain(f"error: {fault or error}")
        sys.exit(1)


def _complain(text: str) -> None:
    """Print an error; a path or a name in it may hold escape sequences."""
    sys.stderr.write(fitted(escaped(text, keep="\n"), sys.stderr) + "\n")


if __name__ == "__main__":
    main()
