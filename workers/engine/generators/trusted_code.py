"""Keras models that take code of their author's: layers in files that the user trusts, run in this process."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.common.errors import GeneratorError
from pipeline.common.files import read_regular
from pipeline.generators.architecture_file import find_architecture
from pipeline.generators.archive import read_config
from pipeline.generators.hdf5 import holds_weights_alone
from pipeline.generators.trusted_code import Code, CodeFile
from workers.engine.generators.keras_files import why_not
from workers.engine.generators.keras_model import keras_network
from workers.engine.generators.network import Network, first_line

#: The function in FILE.py that makes the model of weights that lie alone.
BUILDER = "build_generator"

#: What was run in this process: to run it again would register each class twice.
_modules: dict[tuple[str, str], ModuleType] = {}


def load_with_code(path: Path, code: Code) -> Network:
    """The network of a `.keras` or `.h5` file, after `code` was run. Raises GeneratorError in one line.

    Where the model itself is part of `code`, Python code that is inside it runs too.
    """
    modules = [_run(file) for file in code if file.path != path]
    objects = {name: each for module in modules for name, each in _definitions(module)}
    try:
        model = _load(path, objects, modules, safe_mode=all(file.path != path for file in code))
        return keras_network(_with_inputs(model))
    except GeneratorError:
        raise
    except Exception as error:  # Keras and the code raise whatever they like.
        told = ", ".join(file.path.name for file in code)
        raise GeneratorError(
            f"generator {path} cannot be loaded with the code of {told}: {why_not({}, error)}"
        ) from error


def _load(path: Path, objects: dict[str, Any], modules: list[ModuleType], *, safe_mode: bool) -> Any:
    import keras  # Takes seconds, and only after the device is pinned.

    if path.suffix == ".keras":
        objects = objects | dict(_by_registered_name(read_config(path, trusted=True), objects))
    elif holds_weights_alone(path):
        return _with_weights(path, objects, modules)
    return keras.models.load_model(path, custom_objects=objects, compile=False, safe_mode=safe_mode)


def _with_weights(path: Path, objects: dict[str, Any], modules: list[ModuleType]) -> Any:
    """The model of a file that holds weights alone: by the JSON beside it, or by the code's own function."""
    import keras  # Loaded already.

    builder = next((getattr(module, BUILDER) for module in modules if hasattr(module, BUILDER)), None)
    beside = find_architecture(path)
    if builder is not None:
        model = builder()
    elif beside is not None:
        model = keras.models.model_from_json(beside.read_text(encoding="utf-8"), custom_objects=objects)
    else:
        raise GeneratorError(
            f"generator {path} holds weights alone: define {BUILDER}() in the code, which answers the model"
        )
    model.load_weights(path)
    return model


def _with_inputs(model: Any) -> Any:
    """The model itself, or one around a subclassed one, whose inputs are known by the shapes it was built with."""
    import keras  # Loaded already.

    if getattr(model, "inputs", None):
        return model
    built = model.get_build_config() or {}
    shapes = built.get("shapes_dict") or {"latent": built.get("input_shape")}
    if not all(isinstance(shape, list | tuple) for shape in shapes.values()):
        raise GeneratorError(f"the model {model.name!r} was never called, so its inputs are unknown")
    inputs = {
        name.removesuffix("_shape"): keras.Input(tuple(shape[1:]), name=name.removesuffix("_shape"))
        for name, shape in shapes.items()
    }
    if len(inputs) == 1:
        [only] = inputs.values()
        return keras.Model(only, model(only))
    return keras.Model(list(inputs.values()), model(**inputs))


def _run(file: CodeFile) -> ModuleType:
    """The module of a file, which other files may import by its name. Raises GeneratorError."""
    name = re.sub(r"\W", "_", file.path.stem)
    if (name, file.sha256) in _modules:
        return _modules[name, file.sha256]
    source = read_regular(file.path)
    if hashlib.sha256(source).hexdigest() != file.sha256:
        raise GeneratorError(f"the code {file.path} has changed while the generator was being loaded")
    ran = any(name == each for each, _ in _modules)  # Another version of it.
    if not ran and (name in sys.modules or importlib.util.find_spec(name) is not None):
        raise GeneratorError(f"the code {file.path} has the name of an installed module, {name}: rename it")
    module = ModuleType(name)
    module.__file__ = str(file.path)
    sys.modules[name] = module
    try:
        exec(compile(source, file.path, "exec"), module.__dict__)  # noqa: S102 - the user said --trust
    except BaseException as error:  # SystemExit too: it is a stranger's code.
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise GeneratorError(
            f"running the code of {file.path} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    _modules[name, file.sha256] = module
    return module


def _definitions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions that a module defines itself, by name."""
    for name, each in vars(module).items():
        if callable(each) and getattr(each, "__module__", None) == module.__name__:
            yield name, each


def _by_registered_name(description: Any, objects: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same ones by the names ("package>Name") under which the model knows them, where the code registers none."""
    waiting = [description]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            registered, name = each.get("registered_name"), each.get("class_name")
            if isinstance(registered, str) and isinstance(name, str) and name in objects:
                yield registered, objects[name]
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
