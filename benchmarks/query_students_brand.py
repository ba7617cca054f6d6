"""Sets of ``query_students.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from query_data import Place

SETS: dict[str, Callable[[Place], dict[str, Any]]] = {}
