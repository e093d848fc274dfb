# Makes .venv at the repository's root and installs gptjax into it; sourced by the
# other scripts, from any folder:
#
#     source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
#     make_venv "[test]"     # extras, or "" for none; then $python is the interpreter
#
# Safe to run again: what is installed already is left alone. PYTHON names the
# interpreter to use, if not the first suitable one that is found.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"

_is_suitable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1
}

_find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
        if _is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON: not Python 3.11 or newer with the venv module" >&2
    else
        echo "gptjax needs Python 3.11 or newer with the venv module (on Debian and" \
            "Ubuntu: apt install python3 python3-venv); PYTHON=... names one" >&2
    fi
    return 1
}

make_venv() {
    local extras="$1" stamps="$root/.venv/installed" wanted found
    # What an installation depends on: where it lies, and what it asks for.
    wanted="$root $(cat "$root/setup.cfg" "$root/pyproject.toml")"
    if ! _is_suitable "$python"; then
        found="$(_find_python)"
        echo "making $root/.venv with $found" >&2
        "$found" -m venv --clear "$root/.venv"
    fi
    if [ "$(cat "$stamps$extras" 2>/dev/null)" != "$wanted" ]; then
        echo "installing gptjax$extras into $root/.venv" >&2
        "$python" -m pip install -qq --disable-pip-version-check -e "$root$extras"
        # Written last: an interrupted installation is then taken up again. With
        # extras goes the plain installation, too.
        echo "$wanted" | tee "$stamps" >"$stamps$extras"
    fi
}
