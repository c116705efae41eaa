"""Configuration of the documentation's generator: `sphinx-build -W --keep-going -b html docs build/docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "kpp-pyro"
copyright = "the kpp-pyro authors"
release = installed_version(project)
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "reference",
    "repository",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["extensions", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = "kpp-pyro"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks hold their results; the tests run them

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what values are, with their shapes
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
nitpicky = True
# Inventories of other projects could only be read from the network: only names of this one have to be found.
nitpick_ignore_regex = [
    ("py:.*", r"(?!(kpp_pyro|models|inference)\.).*"),
    ("py:.*", r".*\[.*\]"),  # generic classes with a parameter
    ("py:obj", r".*\.(Kind|Sampled)"),  # type variables
]
default_role = "code"
