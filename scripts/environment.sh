# Sourced by the other scripts: `ensure_environment run|dev` leaves a ready `.venv` and sets `python`.
# The common case costs no process: two file times and one short read.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$root/.venv/bin/python

# Bytecode makes every later start of the checkout's own code several times faster.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPATH=$root

bootstrap_python() {
    local candidate
    for candidate in "${AYNI_PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null; then
        uv python find --no-project '>=3.11' 2>/dev/null || { uv python install 3.12 >&2 && uv python find --no-project 3.12; }
        return
    fi
    echo "Error: Ayni needs Python 3.11 or later (python3 here is $(python3 --version 2>&1))." \
        "Install one, or uv (https://docs.astral.sh/uv), which brings its own." >&2
    return 1
}

ensure_environment() {
    local wanted=$1 stamp=$root/.venv/ayni-ready profile='' engine='' found
    [[ -r $stamp ]] && read -r profile engine <"$stamp"
    if [[ -x $python && ($profile == "$wanted" || $profile == dev) &&
        (-z ${AYNI_ENGINE:-} || $engine == "$AYNI_ENGINE") &&
        $stamp -nt $root/scripts/requirements.txt && $stamp -nt $root/scripts/requirements-engine.txt &&
        ($wanted == run || $stamp -nt $root/scripts/requirements-dev.txt) ]]; then
        return
    fi
    [[ $profile == dev ]] && wanted=dev
    found=$(bootstrap_python)
    "$found" "$root/scripts/bootstrap.py" "$wanted"
}
