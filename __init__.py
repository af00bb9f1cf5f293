"""chxbench: a benchmark harness for attention methods on chest X-rays.

The names below are all that a plugin author needs. They load on first use, so that `import chxbench` (and with it
`chxbench --help`) stays fast::

    from chxbench import METHODS, Method, Output
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent  # every path within the package follows from it
__all__ = [
    "DATASETS",
    "FINDINGS",
    "METHODS",
    "DataError",
    "Dataset",
    "Index",
    "Method",
    "MethodError",
    "Output",
    "Selection",
    "Stage",
    "UserError",
]

if TYPE_CHECKING:
    from .benchmark.dataset import FINDINGS, DataError, Dataset, Index
    from .benchmark.method import Method, MethodError, Output, Selection, Stage
    from .benchmark.registry import DATASETS, METHODS
    from .benchmark.utils.errors import UserError

_HOMES = {
    "dataset": ("FINDINGS", "DataError", "Dataset", "Index"),
    "utils.errors": ("UserError",),
    "method": ("Method", "MethodError", "Output", "Selection", "Stage"),
    "registry": ("DATASETS", "METHODS"),
}


def __getattr__(name: str):
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".benchmark.{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
