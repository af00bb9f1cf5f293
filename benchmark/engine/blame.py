"""Say in one sentence which line of a method's own code failed, in place of a traceback through the harness."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..method import ContractError, Method, MethodError
from ..utils.errors import UserError
from .memory import is_out_of_memory

MAX_MESSAGE = 300  # characters of a library's message; some list every tensor of a network


@contextmanager
def blame(method: Method, action: str, advice: str = "") -> Iterator[None]:
    """Translate errors in a method's code.

    Args:
        method: method whose code runs in the block.
        action: what the code does, with a verb: "build its network".
        advice: what the user may do about it.

    Raises:
        MethodError: the class and the first line of the error, and its place in the method's code. A UserError and an
            error that means out of memory pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a plugin, or a library that it calls, may raise
        if is_out_of_memory(error):
            raise
        hint = f": {advice}" if advice else ""
        raise MethodError(
            f"method {method.name} ({_place(error, type(method))}) fails to {action}: {describe_error(error)}{hint}"
        ) from error


@contextmanager
def name_method(method: Method, place: str) -> Iterator[None]:
    """Add the method's name and the place of its class, `file:line`, to a ContractError."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"method {method.name} ({place}) breaks its contract: {error}") from error


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:MAX_MESSAGE].rstrip(' .:')}" if lines else type(error).__name__


def _place(error: Exception, cls: type) -> str:
    """Return `file:line` of the innermost call in the folder of the method's class; of the class if there is none."""
    file = inspect.getsourcefile(cls) or "?"
    folder = Path(file).resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        # Installed packages may lie below the folder, in a virtual environment.
        if path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts:
            return f"{frame.filename}:{frame.lineno}"
    return f"{file}:{inspect.getsourcelines(cls)[1]}"
