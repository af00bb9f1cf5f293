"""Check what a path is before it is opened."""

import errno
from pathlib import Path

LOOP = "is, or lies below, a link that leads back to itself: correct or remove the link"


def is_loop(path: Path) -> bool:
    """Return whether a path is, or lies below, a link that leads back to itself."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def regular(path: Path) -> Path:
    """Return the path of a file that is opened next.

    Raises:
        OSError: it is a pipe or a socket, whose opening may wait for ever.
    """
    if path.is_fifo() or path.is_socket():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path
