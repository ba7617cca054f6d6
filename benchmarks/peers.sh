#!/bin/sh
# Makes a virtual environment for each client that benchmarks/engine_throughput.py is measured beside.
#
#     benchmarks/peers.sh [NAME...]        openai litellm distilabel, by default
#
# They go to $DISTILL_PEERS, or ~/.cache/distill/peers: about 1 GB. One that is not there is left out of the benchmark.
set -eu
folder="${DISTILL_PEERS:-$HOME/.cache/distill/peers}"
mkdir -p "$folder"
[ $# -gt 0 ] || set -- openai litellm distilabel
for peer in "$@"; do
    case "$peer" in
        distilabel) packages="distilabel[openai] requests" ;; # it imports requests without asking for it
        *) packages="$peer" ;;
    esac
    [ -x "$folder/$peer/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder/$peer"
    # shellcheck disable=SC2086
    "$folder/$peer/bin/python" -m pip install --quiet --disable-pip-version-check $packages
    echo "$peer: $("$folder/$peer/bin/python" -m pip show "$peer" | sed -n 's/^Version: //p')"
done
