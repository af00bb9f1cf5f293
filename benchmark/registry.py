"""METHODS and DATASETS: registries that map names on the command line to classes.

A plugin registers itself when its file is imported::

    @METHODS.register("mine")
    class Mine(Method): ...

Files are found in three places: the sub-packages `methods/` and `datasets/`, the entry-point groups of installed
packages (`chxbench.methods`, `chxbench.datasets`), and single files that the user passes (`--plugin FILE.py`). A plugin
is code and runs with the user's permissions: only what the user installed or passed is imported.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar, cast, get_args, get_origin
from typing import get_type_hints as type_hints

from pydantic import TypeAdapter, ValidationError

from .utils.errors import UserError, did_you_mean
from .utils.package import ROOT
from .utils.source_code import PLUGIN_PREFIX, REGISTERED_IN, calling_modules, source_sha256
from .utils.text import encodable, title_problem

if TYPE_CHECKING:  # method.py imports torch, which `chxbench list` and `chxbench score` must not
    from .dataset import Dataset
    from .method import Method

FLOOR_PREFIX = "floor_"  # of the names under which `chxbench baselines` publishes
PLUGIN_HINT = '(if a file registers it: pass --plugin FILE.py, in Python plugins=["FILE.py"])'


class Plugin(Protocol):
    """Attributes of a plugin class that the registry uses; the contracts are in method.py and dataset.py."""

    name: ClassVar[str]
    title: ClassVar[str]


T = TypeVar("T", bound=Plugin)  # the contract: Method or Dataset
C = TypeVar("C", bound=type)  # the decorated class, whose own type the decorator keeps


class PluginError(UserError):
    """A plugin that cannot be imported or registered."""


class Entry(NamedTuple, Generic[T]):
    """A registered plugin.

    Attributes:
        name: name on the command line.
        cls: class of the plugin.
        file, line: where the class is defined.
        source_sha256: hash of the code that defines the class when it was imported, see utils/source_code.py.
    """

    name: str
    cls: type[T]
    file: str
    line: int
    source_sha256: str

    @property
    def place(self) -> str:
        """Where the plugin is defined: `file:line`."""
        return f"{self.file}:{self.line}"

    @property
    def built_in(self) -> bool:
        """Whether the file belongs to this package."""
        return Path(self.file).resolve().is_relative_to(ROOT)

    def check_source(self) -> None:
        """Check that the imported code is still that of its files. Raises PluginError if it was edited since."""
        if source_sha256(self.cls) != self.source_sha256:
            raise PluginError(f"the code of {self.name} ({self.place}) was edited after its import: start Python again")


class Registry(Generic[T]):
    """Plugins of one kind by name; iterating yields their entries, sorted by name.

    Args:
        kind: the kind of plugin in the singular, for messages ("method").
        package: the sub-package of chxbench with the built-in ones; `chxbench.<package>` is also the entry-point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator that registers the class as `name` and sets its attribute `name`.

        Raises:
            PluginError: an invalid name, no valid title, or a different class registered under the name.
        """

        def decorate(cls: C) -> C:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise PluginError(
                    f"{self.kind} name {name!r} is not a valid folder name: use letters, digits, _ . and -"
                )
            if name.startswith(FLOOR_PREFIX):
                raise PluginError(f"{self.kind} name {name!r} belongs to `chxbench baselines`: choose a different one")
            title = getattr(cls, "title", None)
            if not isinstance(title, str):
                raise PluginError(f"{self.kind} {name!r} has no title: give the class one, title: ClassVar[str] = ...")
            if problem := title_problem(title):
                raise PluginError(f"{self.kind} {name!r} has the title {title!r}: {problem}")
            if problem := _contract_problem(cls):
                raise PluginError(f"{self.kind} {name!r} ({inspect.getsourcefile(cls)}): {problem}")
            setattr(cls, REGISTERED_IN, calling_modules())
            plugin = cast("type[T]", cls)
            try:
                source = source_sha256(cls)
                entry = Entry(name, plugin, inspect.getsourcefile(cls) or "?", inspect.getsourcelines(cls)[1], source)
            except (OSError, TypeError) as error:
                raise PluginError(f"{self.kind} {name!r} has no source: define it by a class statement") from error
            taken = self._entries.get(name)
            if taken and taken.place != entry.place:
                raise PluginError(
                    f"{self.kind} {name!r} in {entry.place} is already registered by {taken.place}: rename one"
                )
            plugin.name = name
            self._entries[name] = entry
            return cls

        return decorate

    def get(self, name: str) -> Entry[T]:
        """Find the plugin called `name`. Raises UserError with similar names if it does not exist."""
        self._discover()
        if not isinstance(name, str) or name not in self._entries:  # from Python, it may be a class
            raise UserError(f"unknown {self.kind} {name!r}: {did_you_mean(str(name), self._entries)} {PLUGIN_HINT}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        self._discover()
        return iter(sorted(self._entries.values()))

    def _discover(self) -> None:
        """Import the built-in and the installed plugins, once and only when a plugin is needed: it takes seconds."""
        if self._discovered:
            return
        package = importlib.import_module(f"...{self.package}", __name__)
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            _import(module.name, module.name)
        for point in entry_points(group=f"chxbench.{self.package}"):
            source = f"entry point {point.name} = {point.value} of {point.dist.name if point.dist else 'a package'}"
            _import(point.module, source)
        self._discovered = True


METHODS: "Registry[Method]" = Registry("method", "methods")
DATASETS: "Registry[Dataset]" = Registry("dataset", "datasets")


def _contract_problem(cls: type) -> str | None:
    """Say why a plugin's class breaks the contract, by its base or the type of an attribute; None if it does not."""
    contract = next((base for base in cls.__mro__ if base.__module__.startswith(f"{__package__}.")), None)
    if contract is None:
        return "it must be a subclass of chxbench's Method or Dataset"
    for name, hint in type_hints(contract).items():
        if get_origin(hint) is ClassVar and hasattr(cls, name):
            (expected,), value = get_args(hint), getattr(cls, name)
            try:
                TypeAdapter(expected).validate_python(value, strict=True)
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                return f"the class attribute {name} = {value!r} is invalid: {problem[0].lower() + problem[1:]}"
    return None


def load_plugins(paths: Iterable[Path]) -> None:
    """Import plugin files, each once. Raises PluginError if one is missing or cannot be imported."""
    for path in paths:
        _load_file(path)


def _load_file(path: Path) -> None:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist")
    name = f"{PLUGIN_PREFIX}{encodable(path.stem)}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file is still being read
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failure(str(path), error) from error


def _import(module: str, source: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise _failure(source, error) from error


def _failure(source: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    return PluginError(f"plugin {source} cannot be imported: {type(error).__name__}: {error}")
