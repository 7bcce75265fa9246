# Sourced by the scripts in ci/: enter the repository, make .venv if need be, put it first on PATH.
# Python 3.10 to 3.13 is searched for; ECGNB_PYTHON names another.
set -e
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PYTHONDONTWRITEBYTECODE=  # modules are compiled when first imported; without it, in every process again

find_python() {
    local candidate
    for candidate in ${ECGNB_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.10 to 3.13 found; install one, or set ECGNB_PYTHON to its path" >&2
    return 1
}

# The stamp is written last, so an interrupted installation is begun again.
wanted=$(cat ci/requirements.lock pyproject.toml ci/jupyter/*.py | cksum)
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
    python=$(find_python)
    echo "installing into .venv with $("$python" --version) (a few minutes, about 2.5 GB)"
    rm -rf .venv
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --no-deps --no-compile --require-hashes --requirement ci/requirements.lock
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
    mkdir -p .venv/etc/ipython .venv/etc/jupyter
    cp ci/jupyter/ipython_kernel_config.py .venv/etc/ipython/
    cp ci/jupyter/jupyter_server_config.py .venv/etc/jupyter/
    # Compiles what every command imports, and looks for fonts, which the first notebook would else tell about.
    .venv/bin/python -c 'import ecgnb.notebook, ecgnb.models.network, matplotlib.font_manager, papermill'
    echo "$wanted" > .venv/.installed
fi
export PATH="$PWD/.venv/bin:$PATH"
