"""The harness: everything a method or a dataset does not have to know."""

import getpass
import os

try:
    getpass.getuser()
except (KeyError, OSError):  # a user id without an account, as in containers: MONAI and torch ask for its name
    os.environ["LOGNAME"] = f"user{os.getuid()}"
