"""Check what a path is before it is opened."""

import errno
from pathlib import Path


def regular(path: Path) -> Path:
    """Return the path of a file that is opened next.

    Raises:
        OSError: it is a pipe, a socket or a device, whose opening may wait for ever.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path
