#!/usr/bin/env bash
# Print the path of the first Python found among the versions given, most wanted first:
#     scripts/find_python.sh 3.11 3.10
# Every candidate is run and asked: a python3.X on PATH may be a pyenv shim that only prints an error.
set -u

# The interpreter's own path, if it is of version $1 and can make virtual environments.
ask() {
    local version=$1
    shift
    "$@" - "$version" 2>/dev/null <<'PYTHON'
import sys
import ensurepip, venv
if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(sys.executable)
PYTHON
}

pyenv_versions=$(pyenv versions --bare 2>/dev/null || true)

for version in "$@"; do
    ask "$version" "python$version" && exit 0
    ask "$version" python3 && exit 0
    for installed in $(grep -E "^${version//./\\.}\.[0-9]+$" <<<"$pyenv_versions"); do
        ask "$version" env PYENV_VERSION="$installed" python && exit 0
    done
done

echo "No Python $* with venv and ensurepip found (looked at python3.X and python3 on PATH, and at pyenv)." >&2
exit 1
