"""A Sphinx extension: writes a page of the API reference for each package, from the docstrings of its modules."""

from __future__ import annotations

import ast
import pkgutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("inference", "models", "kpp_pyro")


def write_pages(app: Sphinx) -> None:
    """Write `reference/generated/PACKAGE.rst`, and the list of all packages, unless they are there already."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    names = [name for package in PACKAGES for name in _packages(package)]
    wanted = {folder / f"{name}.rst": _page(name) for name in names}
    wanted[folder / "packages.txt"] = "\n".join(f"- {{doc}}`generated/{name}`: {_summary(name)}" for name in names)
    for path in set(folder.iterdir()) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _packages(name: str) -> list[str]:
    """A package and the packages in it, by name."""
    found = [module.name for module in pkgutil.walk_packages(_path(name), f"{name}.") if module.ispkg]
    return [name, *found]


def _page(package: str) -> str:
    modules = [f"{package}.{module.name}" for module in pkgutil.iter_modules(_path(package)) if not module.ispkg]
    parts = [f"{package}\n{'=' * len(package)}\n\n.. automodule:: {package}\n   :no-members:\n"]
    parts += [
        f"{module}\n{'-' * len(module)}\n\n.. automodule:: {module}\n   :ignore-module-all:\n" for module in modules
    ]
    return "\n".join(parts)


def _summary(package: str) -> str:
    """The first paragraph of a package's docstring."""
    source = Path(_path(package)[0], "__init__.py").read_text()
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


def _path(package: str) -> list[str]:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    return list(spec.submodule_search_locations)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
