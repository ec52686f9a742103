#!/usr/bin/env bash
# Predicts with this bundle, without internet: bash infer.sh [COMPETITION_FOLDER] [infer.tta=hflip ...]
# It writes ./submission.csv; notebook.ipynb runs this file.
set -eu
bundle=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
export PYTHONDONTWRITEBYTECODE=1
for python in python python3; do
  if "$python" -c 'import importlib.util as find; raise SystemExit(find.find_spec("torch") is None)' 2>/dev/null; then
    exec "$python" "$bundle/code/offline.py" "$@"
  fi
done
echo "error: python: neither python nor python3 has torch; put the one that has it first in PATH" >&2
exit 2
