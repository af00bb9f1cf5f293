"""Run mypy over the package under its own name: the repository root is the package, whatever its folder is called.

Used as `python tests/helpers/check_types.py ENVIRONMENT [ARGUMENTS OF MYPY]`; the packages that chxbench imports are
those of the virtual environment ENVIRONMENT.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(environment: str, *arguments: str) -> int:
    """Check the types; the exit status is mypy's."""
    python = next(
        path for path in (Path(environment, "bin/python"), Path(environment, "Scripts/python.exe")) if path.exists()
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "chxbench").symlink_to(ROOT)
        words = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--python-executable", python]
        return subprocess.run([*words, *arguments], env={**os.environ, "MYPYPATH": folder}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
