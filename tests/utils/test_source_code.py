"""The hash of a plugin's code: all modules that its author wrote, and nothing that changes no result."""

import importlib
import sys
from itertools import count

import pytest

from chxbench import METHODS
from chxbench.benchmark.registry import PluginError, load_plugins
from chxbench.benchmark.utils.errors import UserError
from chxbench.benchmark.utils.source_code import own_modules, source_sha256

NUMBER = count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the author's with a class in `main`; write to it before `load`, which returns the class."""
    name = f"author{next(NUMBER)}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "blocks.py").write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def load(package, source):
    (package / "main.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(f"{package.name}.main").Plugin


@pytest.mark.parametrize(
    "source",
    [
        "from .blocks import WIDTH\nclass Plugin: pass\n",
        "from . import blocks\nclass Plugin: pass\n",
        "class Plugin:\n    def build(self):\n        from .blocks import WIDTH\n",
        "import {name}.blocks\nclass Plugin: pass\n",
        "import importlib\nblocks = importlib.import_module('{name}.blocks')\nclass Plugin: pass\n",
        "from importlib import import_module\nblocks = import_module('.blocks', __package__)\nclass Plugin: pass\n",
        "import importlib\nfor n in ['blocks']:\n    importlib.import_module('{name}.' + n)\nclass Plugin: pass\n",
        "import pkgutil\nfound = pkgutil.iter_modules(__path__ if False else [])\nclass Plugin: pass\n",
        "try:\n    from .missing import x\nexcept ImportError:\n    from .blocks import WIDTH\nclass Plugin: pass\n",
        "from .middle import WIDTH\nclass Plugin: pass\n",
        "from .middle import Base\nclass Plugin(Base): pass\n",
    ],
    ids=[
        "from",
        "module",
        "in a function",
        "absolute",
        "by name",
        "by a relative name",
        "by a variable",
        "found",
        "alternative",
        "through another",
        "of a base class",
    ],
)
def test_an_edited_helper_changes_the_hash(package, source):
    (package / "middle.py").write_text("from .blocks import WIDTH\nclass Base: pass\n")
    cls = load(package, source.replace("{name}", package.name))
    before = source_sha256(cls)
    (package / "blocks.py").write_text("WIDTH = 22\n")
    assert source_sha256(cls) != before


def test_a_helper_in_a_folder_without_init_and_one_that_is_not_python_count(package):
    (package / "parts").mkdir()
    (package / "parts" / "head.py").write_text("A = 1\n")
    cls = load(package, "def build():\n    from .parts.head import A\n    from . import fast\nclass Plugin: pass\n")
    (package / "fast.so").write_bytes(b"1")
    hashes = {source_sha256(cls)}
    (package / "parts" / "head.py").write_text("A = 22\n")
    hashes.add(source_sha256(cls))
    (package / "fast.so").write_bytes(b"22")
    hashes.add(source_sha256(cls))
    assert len(hashes) == 3


SOURCE = '''"""What it is."""
import os  # the system


class Plugin:
    """A plugin."""

    text = "# no comment"

    def build(self):
        "Build it."
        return f"{os.sep} # {self.text}"
'''
REWORDED = '''# A license.
"""Something else, on
two lines with an é."""
import os
class Plugin:

    text = "# no comment"  # but this is one
    def build(self):

        return f"{os.sep} # {self.text}"
'''


def test_comments_docstrings_and_blank_lines_do_not_change_the_hash(package):
    cls = load(package, SOURCE)
    before = source_sha256(cls)
    (package / "main.py").write_text(REWORDED, encoding="utf-8", newline="\r\n")
    assert source_sha256(cls) == before
    (package / "main.py").write_text(REWORDED.replace('"# no comment"', '"# a comment"'), encoding="utf-8")
    assert source_sha256(cls) != before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('TABLE = """\n8\n\n"""', 'TABLE = """\n8\n\n\n"""'),
        ('TABLE = f"""\n{8}\n\n"""', 'TABLE = f"""\n{8}\n\n\n"""'),
        ('TABLE = """8 \n"""', 'TABLE = """8\n"""'),
        ('"""One."""\nTABLE = __doc__', '"""Two."""\nTABLE = __doc__'),
        ('class A:\n    "One"\nTABLE = A.__doc__', 'class A:\n    "Two"\nTABLE = A.__doc__'),
    ],
    ids=["blank line", "formatted", "trailing space", "docstring that is data", "docstring of a class"],
)
def test_all_of_a_string_that_is_data_counts(package, before, after):
    cls = load(package, f"{before}\nclass Plugin: pass\n")
    hashes = {source_sha256(cls)}
    for source in (after, f"\n# {after!r}\n{before}\n\n"):
        (package / "main.py").write_text(f"{source}\nclass Plugin: pass\n")
        hashes.add(source_sha256(cls))
    assert len(hashes) == 2


def test_libraries_and_the_harness_are_not_part_of_it(package):
    cls = load(package, "import json, numpy, torch\nfrom chxbench import Method\nclass Plugin(Method): pass\n")
    assert sorted(own_modules(cls)) == [package.name, f"{package.name}.main"]


def test_a_built_in_method_that_is_extended_counts_with_its_helpers(package):
    cls = load(package, "from chxbench.methods.sam import SpaceAttention\nclass Plugin(SpaceAttention): pass\n")
    assert {f"chxbench.methods.{name}" for name in ("sam", "fam", "blocks", "backbones")} <= set(own_modules(cls))
    assert {"chxbench.methods.ma", "chxbench.methods.torchvision_trunks"} <= set(own_modules(METHODS.get("ma").cls))


PLUGIN = """
from chxbench import METHODS, Method
@METHODS.register("{name}")
class Plugin(Method):
    title = "A plugin"
"""


def test_the_same_file_in_another_folder_is_the_same_code(tmp_path):
    hashes = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin.py").write_text(PLUGIN.format(name="same"))
        load_plugins([tmp_path / folder / "plugin.py"])
        hashes.add(METHODS.get("same").source_sha256)
        del METHODS._entries["same"]
    assert len(hashes) == 1


FACTORY = """
from chxbench import METHODS, Method
def make(name, width):
    @METHODS.register(name)
    class Made(Method):
        title = "Made"
        size = width
    return Made
"""


@pytest.mark.parametrize("change", ["made = make('{name}', 64)", "made = make('{name}', 8)\nmade.size = 64"])
def test_the_file_that_registers_a_class_counts_wherever_the_class_is_defined(tmp_path, monkeypatch, change):
    factory, name = f"factory{next(NUMBER)}", f"made{next(NUMBER)}"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{factory}.py").write_text(FACTORY)
    hashes = set()
    for folder, line in (("one", "made = make('{name}', 8)"), ("two", change)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin.py").write_text(f"from {factory} import make\n{line.format(name=name)}\n")
        load_plugins([tmp_path / folder / "plugin.py"])
        hashes.add(METHODS.get(name).source_sha256)
        del METHODS._entries[name]
    assert len(hashes) == 2
    del sys.modules[factory]


def test_code_that_was_edited_after_its_import_is_refused(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN.format(name="edited"))
    load_plugins([path])
    entry = METHODS.get("edited")
    entry.check_source()
    path.write_text(PLUGIN.format(name="edited") + "    x = 1\n")
    with pytest.raises(PluginError, match=r"edited \(.*plugin.py:3\) was edited after its import: start Python again"):
        entry.check_source()
    del METHODS._entries["edited"]


def test_a_class_without_a_file_is_refused():
    space = {"__name__": "nowhere"}
    exec(PLUGIN.format(name="x").replace('@METHODS.register("x")', ""), space)
    with pytest.raises(UserError, match=r"Plugin is not defined in a file: save its code in a \.py file"):
        METHODS.register("x")(space["Plugin"])
