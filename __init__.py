"""chxbench: a benchmark harness for attention methods on chest X-rays.

For scripts and notebooks (docs/python-api.md)::

    import chxbench
    record = chxbench.run(method="sam", dataset="phantom")

For authors of plugins (docs/contributing-a-method.md)::

    from chxbench import METHODS, Method, Output

Names are imported on first use, so that `import chxbench` and `chxbench --help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .benchmark.utils.package import ROOT, __version__

__all__ = [
    "DATASETS",
    "FINDINGS",
    "METHODS",
    "ROOT",
    "DataError",
    "Dataset",
    "Index",
    "Method",
    "MethodError",
    "Output",
    "PartCheck",
    "Selection",
    "Stage",
    "UserError",
    "__version__",
    "evaluate_scores",
    "load_results",
    "predict",
    "run",
]

if TYPE_CHECKING:
    from .api import predict, run
    from .benchmark.dataset import FINDINGS, DataError, Dataset, Index
    from .benchmark.evaluation.scores import evaluate_arrays as evaluate_scores
    from .benchmark.method import Method, MethodError, Output, PartCheck, Selection, Stage
    from .benchmark.records.table import load_results
    from .benchmark.registry import DATASETS, METHODS
    from .benchmark.utils.errors import UserError

_MODULES = {  # of each name
    "api": ("predict", "run"),
    "benchmark.dataset": ("FINDINGS", "DataError", "Dataset", "Index"),
    "benchmark.evaluation.scores": ("evaluate_scores",),
    "benchmark.method": ("Method", "MethodError", "Output", "PartCheck", "Selection", "Stage"),
    "benchmark.records.table": ("load_results",),
    "benchmark.registry": ("DATASETS", "METHODS"),
    "benchmark.utils.errors": ("UserError",),
}
_RENAMED = {"evaluate_scores": "evaluate_arrays"}  # where the module has another name for it


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), _RENAMED.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
