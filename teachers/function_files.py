"""Finds labeling functions in a file or module: their names without running it, and the functions by running it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distill.labeling.errors import DataError
from distill.labeling.labeling_function import LabelingFunction
from distill.teachers.functions_config import FunctionsTeacherConfig, check_function_name

_DECORATOR = "labeling_function"


class Found(NamedTuple):
    """The functions of a section.

    Attributes:
        functions: In the order in which they are named or defined.
        digest: Of the bytes of the file that they stand in.
    """

    functions: list[LabelingFunction]
    digest: str


def function_names(config: FunctionsTeacherConfig) -> list[str]:
    """Names of a section's functions, by reading the file and without running it.

    A name that its decorator works out at run time cannot be read so; the function's own stands for it.

    Raises:
        DataError: The file cannot be read, is no Python, or holds no labeling function.
    """
    if config.functions:
        return list(config.functions)
    file = source_file(config)
    names = [name for node in _parsed(file).body if (name := _declared(node))]
    if not names:
        raise DataError(_nothing_found(file))
    return names


def load_functions(config: FunctionsTeacherConfig) -> Found:
    """Runs a section's file and takes its functions.

    Raises:
        DataError: The file cannot be run, lacks a function that is named, or holds none.
    """
    file = source_file(config)
    source = _bytes_of(file)
    namespace = _run(file, source) if config.path is not None else _imported(config.module or "", file)
    declared = {
        value.name: value
        for value in namespace.values()
        if isinstance(value, LabelingFunction) and value.__module__ == namespace["__name__"]
    }
    if config.functions:
        found = [_named(name, namespace, declared, file) for name in config.functions]
    else:
        found = list(declared.values())
    if not found:
        raise DataError(_nothing_found(file))
    for function in found:
        try:
            check_function_name(function.name)
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
    return Found(found, hashlib.blake2b(source, digest_size=16).hexdigest())


def source_file(config: FunctionsTeacherConfig) -> Path:
    """The file that a section's functions stand in.

    Raises:
        DataError: There is no such module.
    """
    if config.path is not None:
        return config.path
    try:
        spec = importlib.util.find_spec(config.module or "")
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise DataError(
            f"module {config.module!r}: no such module with a source file; install it, or give the file as path"
        )
    return Path(spec.origin)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read, {error.strerror or error}; correct the path") from None


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(_bytes_of(file), str(file))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{file}:{getattr(error, 'lineno', None) or 1}: not Python: {error}; correct it") from None


def _declared(node: ast.stmt) -> str | None:
    """The name of a function that is decorated as a labeling function."""
    if not isinstance(node, ast.FunctionDef):
        return None
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        used = call.func if call else decorator
        if (used.attr if isinstance(used, ast.Attribute) else getattr(used, "id", "")) != _DECORATOR:
            continue
        for keyword in call.keywords if call else ():
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                return str(keyword.value.value)
        return node.name
    return None


def _run(file: Path, source: bytes) -> Mapping[str, Any]:
    """Runs a file as a module of its own, which nothing else can shadow; no bytecode is left beside it."""
    _parsed(file)
    name = f"distill_functions_{hashlib.blake2b(bytes(file.absolute()) + source, digest_size=6).hexdigest()}"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise DataError(_failed(file, error)) from error
    return module.__dict__


def _imported(name: str, file: Path) -> Mapping[str, Any]:
    try:
        return importlib.import_module(name).__dict__
    except Exception as error:
        raise DataError(_failed(file, error)) from error


def _failed(file: Path, error: Exception) -> str:
    """What went wrong in the user's file, at the line of it that was running."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    neighbours = "; files beside it are not on the import path: install them and give module"
    hint = neighbours if isinstance(error, ImportError) else ""
    return f"{file}:{line}: cannot be run, got {type(error).__name__}: {error}{hint}"


def _named(
    name: str, namespace: Mapping[str, Any], declared: Mapping[str, LabelingFunction], file: Path
) -> LabelingFunction:
    found = declared.get(name, namespace.get(name))
    if isinstance(found, LabelingFunction):
        return found
    if isinstance(found, types.FunctionType):
        return LabelingFunction(found, name=name)
    known = [*declared, *(key for key, value in namespace.items() if isinstance(value, types.FunctionType))]
    what = "is no function" if found is not None else "is not there"
    raise DataError(f"{file}: the function {name!r} {what}; it has {', '.join(known) or 'none'}")


def _nothing_found(file: Path) -> str:
    return (
        f"{file}: no labeling function found; decorate them with @distill.labeling_function, or name them under "
        "functions"
    )
