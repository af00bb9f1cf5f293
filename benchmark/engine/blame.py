"""Say in one sentence which line of a method's own code failed, in place of a traceback through the harness."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..method import ContractError, Method, MethodError
from ..utils.errors import UserError, describe_error, place_in_code
from .memory import is_out_of_memory


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
        place = place_in_code(error, type(method))
        raise MethodError(f"method {method.name} ({place}) fails to {action}: {describe_error(error)}{hint}") from error


@contextmanager
def name_method(method: Method, place: str) -> Iterator[None]:
    """Add the method's name and the place of its class, `file:line`, to a ContractError."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"method {method.name} ({place}) breaks its contract: {error}") from error
