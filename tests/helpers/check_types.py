"""Run mypy over the package under its own name: the repository root is the package, whatever its folder is called.

Used as `python tests/helpers/check_types.py ENVIRONMENT [ARGUMENTS OF MYPY]`, where ENVIRONMENT is the virtual
environment that has mypy and the packages that chxbench imports.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(environment: str, *arguments: str) -> int:
    """Check the types; the exit status is mypy's."""
    python = next(path for path in Path(environment).glob("*/python*") if path.stem == "python")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "chxbench").symlink_to(ROOT)
        words = [python, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", *arguments]
        return subprocess.run(words, env={**os.environ, "MYPYPATH": folder}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
