"""Hash the code that defines a class: of its module, and of every module of the same author that this one imports.

The module that registers a class counts as well: it may make the class with a function of another one, or change it.
Modules of Python, of installed libraries and of the harness itself are not part of the hash: records name their
versions instead. Comments, docstrings and blank lines are not part of it either: they change no result.
"""

import ast
import hashlib
import importlib.util
import inspect
import io
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TypeGuard

from .errors import UserError
from .package import ROOT

PLUGIN_PREFIX = "chxbench_plugin_"  # of the module names of single-file plugins, which end in a hash of their folder
HARNESS = (ROOT / "benchmark", ROOT / "__init__.py", ROOT / "__main__.py", ROOT / "api.py")
BUILT_IN = (ROOT / "methods", ROOT / "datasets")
STANDARD_LIBRARY = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
INSTALLED = {"site-packages", "dist-packages"}
IMPORTERS = {"import_module", "__import__"}  # functions that import a module by its name
FINDERS = {"iter_modules", "walk_packages"}  # functions that find the modules of a package
REGISTERED_IN = "registered_in"  # attribute of a class: names of the modules that registered it


def source_sha256(cls: type) -> str:
    """Hash the names and the code of all modules that define a class.

    Raises:
        UserError: the class is not defined in a file.
    """
    digest = hashlib.sha256()
    for name, path in sorted((_stable_name(name), path) for name, path in own_modules(cls).items()):
        digest.update(f"{name} {code_sha256(path)}\n".encode())
    return digest.hexdigest()


def own_modules(cls: type) -> dict[str, Path]:
    """Return the modules that define a class, by name, with their files: its own, its bases' and what these import.

    An import anywhere in a file counts, also one inside a function, or by a literal name (`import_module("blocks")`).

    Raises:
        UserError: the class is not defined in a file.
    """
    if _file(cls.__module__) is None:
        raise UserError(f"{cls.__name__} is not defined in a file: save its code in a .py file and import that")
    package = _top(cls.__module__)
    found: dict[str, Path] = {}
    modules = [name for base in cls.__mro__ for name in (base.__module__, *vars(base).get(REGISTERED_IN, ()))]
    pending = [name for module in modules for name in _with_packages(module)]
    while pending:
        name = pending.pop()
        path = None if name in found else _file(name)
        if path is not None and _is_own(name, path, package):
            found[name] = path
            pending += [imported for imported in _imports(name, path) if _may_be_own(_top(imported), package)]
    return found


def calling_modules() -> tuple[str, ...]:
    """Return the names of the modules whose code is running, up to the first one that is being imported."""
    names = []
    frame = inspect.currentframe()
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__", "")))
        if frame.f_code.co_name == "<module>":
            break
        frame = frame.f_back
    return tuple(sorted({name for name in names if name and name != "__main__"}))


def code_sha256(path: Path) -> str:
    """Hash a file's code without comments, docstrings and blank lines; all bytes of a file that is not Python."""
    return _parse(path)[0]


def _top(name: str) -> str:
    return name.partition(".")[0]


def _with_packages(name: str) -> list[str]:
    """Return the names of the packages that a module is in, and its own: `a.b` gives a and a.b."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _stable_name(name: str) -> str:
    """Return a module's name without the hash of a folder: the same plugin in a different folder is the same code."""
    return re.sub(r"_[0-9a-f]{8}$", "", name) if name.startswith(PLUGIN_PREFIX) else name


def _file(name: str) -> Path | None:
    """Return the file of a module, imported or not; None if it is built in, missing or a namespace package."""
    spec = None if name in sys.modules else _spec(name)
    origin = spec.origin if spec and spec.has_location else getattr(sys.modules.get(name), "__file__", None)
    path = Path(origin).resolve() if origin else None
    return path if path is not None and os.path.isfile(path) else None  # noqa: PTH113  no error for unreadable folders


def _spec(name: str) -> ModuleSpec | None:
    """Find a module without importing the packages that it is in, as `importlib.util.find_spec` would."""
    package, _, _ = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name)
    places = getattr(sys.modules.get(package), "__path__", None)
    if places is None and package not in sys.modules:
        spec = _spec(package)
        places = spec.submodule_search_locations if spec else None
    return None if places is None else PathFinder.find_spec(name, list(places))


def _is_own(name: str, path: Path, package: str) -> bool:
    """Return whether a module is built in or belongs to the author of a class in this top-level package."""
    if any(path.is_relative_to(place) for place in BUILT_IN):
        return True
    if any(path.is_relative_to(place) for place in (*HARNESS, *STANDARD_LIBRARY)) and not INSTALLED & set(path.parts):
        return False
    return _top(name) == package or not INSTALLED & set(path.parts)


def _may_be_own(top: str, package: str) -> bool:
    """Return whether modules below a top-level name may be the author's; those of libraries are not searched for."""
    path = _file(top)
    return path is None or top in (package, _top(__name__)) or _is_own(top, path, package)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Yield the names of all modules that a module imports, each after the packages that it is in."""
    package = getattr(sys.modules.get(name), "__package__", None)
    if package is None:
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _parse(path)[1]:
        imported = _package_modules(package) if _imports_by_variable(node) else _imported(node, package)
        for other in imported:
            yield from _with_packages(other)


def _imports_by_variable(node: ast.AST) -> bool:
    """Return whether a node is a call that imports or finds modules whose names the code does not tell."""
    if not isinstance(node, ast.Call):
        return False
    name = _called(node)
    return name in FINDERS or (name in IMPORTERS and bool(node.args) and not isinstance(node.args[0], ast.Constant))


def _called(node: ast.Call) -> str:
    """Return the name of the called function, without the module that it is in."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _package_modules(package: str) -> list[str]:
    """Return the names of all modules of a package and its sub-packages, imported or not; none without a package."""
    path = _file(package) if package else None
    if path is None or path.name != "__init__.py":
        return []
    files = sorted(path.parent.rglob("*.py"))
    parts = (file.relative_to(path.parent).with_suffix("").parts for file in files)
    return [".".join([package, *names]) for names in parts if names[-1] != "__init__"]


def _imported(node: ast.AST, package: str) -> list[str]:
    """Return the absolute names that a node imports; of `from a import b`, a and a.b, which may be a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        text = node.args[0].value
        if _called(node) in IMPORTERS and isinstance(text, str):
            return [_absolute(text, package)]
    return []


def _absolute(name: str, package: str) -> str:
    """Return the absolute name of a module that a package's code calls `.blocks` or `..blocks`."""
    level = len(name) - len(name.lstrip("."))
    above = package.split(".")
    return ".".join([*above[: len(above) - level + 1], name[level:]]) if level else name


def _parse(path: Path) -> tuple[str, list[ast.AST]]:
    """Return a hash of a file's code, and all nodes of its syntax tree; a file that is not Python has no nodes."""
    stat = path.stat()
    return _parse_version(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _parse_version(path: Path, modified: int, size: int) -> tuple[str, list[ast.AST]]:
    data = path.read_bytes()
    if path.suffix != ".py":
        return hashlib.sha256(data).hexdigest(), []
    with tokenize.open(path) as file:
        source = file.read()
    nodes = list(ast.walk(ast.parse(data)))
    return hashlib.sha256(_code(source, nodes).encode()).hexdigest(), nodes


def _code(source: str, nodes: list[ast.AST]) -> str:
    """Remove comments, docstrings and blank lines from a file; not docstrings if the code reads them."""
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [(token.start, token.end) for token in tokens if token.type == tokenize.COMMENT]
    documents = [] if any(_reads_docstrings(node) for node in nodes) else [node for node in nodes if _is_text(node)]
    for node in documents:
        last, end = node.end_lineno or node.lineno, node.end_col_offset or 0
        spans.append((_characters(lines, node.lineno, node.col_offset), _characters(lines, last, end)))
    # Blank lines and trailing spaces inside a string are part of its value.
    strings = [node for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
    inside = {line for node in strings for line in range(node.lineno, node.end_lineno or node.lineno)}
    inside -= {line for node in documents for line in range(node.lineno, node.end_lineno or node.lineno)}
    for (first, start), (last, end) in spans:
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:], *[""] * (last - first)]
    kept = ((number in inside, line) for number, line in enumerate(lines, 1))
    return "\n".join(line if is_inside else line.rstrip() for is_inside, line in kept if is_inside or line.strip())


def _is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Return whether a node is a string alone, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _reads_docstrings(node: ast.AST) -> bool:
    return "__doc__" in (getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "value", ""))


def _characters(lines: list[str], row: int, column: int) -> tuple[int, int]:
    """Convert a position that counts bytes, as ast does, to one that counts characters, as tokenize does."""
    return row, len(lines[row - 1].encode()[:column].decode())
