#!/bin/sh
# Create or refresh the virtual environment: scripts/install.sh PYTHON VENV
# PYTHON may be empty: then the first interpreter on the path that is new enough is taken.
set -eu
wanted=$1
venv=$2

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

fail() {
    echo "make install: $1" >&2
    exit 1
}

if ! is_new_enough "$venv/bin/python"; then
    python=
    for candidate in ${wanted:-python3.11 python3 python3.12 python3.13 python3.14}; do
        if is_new_enough "$candidate"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, and ${wanted:-python3} is not (say which: make install PYTHON=/path/to/python3.11)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module (on Debian and Ubuntu it is the package python3-venv)"
    "$python" -m venv --clear "$venv"
fi

echo "installing the pinned packages into $venv (about a minute the first time)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes \
    --requirement requirements/dev.txt
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps \
    --no-build-isolation --editable .
echo "installed: activate it with '. $venv/bin/activate', or let make find it"
