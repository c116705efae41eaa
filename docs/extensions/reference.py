"""A Sphinx extension: writes a page of the API reference for each package, from the docstrings of its modules."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("inference", "models", "kpp_pyro")


def write_pages(app: Sphinx) -> None:
    """Write `reference/generated/PACKAGE.rst`, one for each package, unless it is there already."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    wanted = {folder / f"{name}.rst": _page(name) for package in PACKAGES for name in _packages(package)}
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


def _path(package: str) -> list[str]:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    return list(spec.submodule_search_locations)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
