"""Call a function as a user who may read what a test made, but not write it."""

import os
import pickle
import tempfile
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65_534


@contextmanager
def shared_folder():
    """Make a folder that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        try:
            yield path
        finally:
            for place in (path, *path.rglob("*")):
                if place.is_dir():
                    place.chmod(0o755)


def read_only(folder):
    """Take away every right to write below a folder."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)


def as_other_user(function):
    """Return what the function returns, or raise what it raises, in a child process that root's rights were taken."""
    if os.getuid() != 0:  # the rights of files already hold for this user
        return function()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = (True, function())
        except BaseException as error:
            answer = (False, type(error)(str(error)))
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        done, value = pickle.load(pipe)  # noqa: S301  from this very process
    os.waitpid(child, 0)
    if not done:
        raise value
    return value
