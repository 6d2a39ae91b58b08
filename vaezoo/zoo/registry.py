"""The names in configs and their classes: the library's, registered ones, and "package.module:Class".

A config is trusted as code is: "package.module:Class" imports that module, from the working directory, too.
"""

import importlib
import inspect
import os
import sys

from vaezoo import checks

VAR_POSITIONAL, VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def register(name, cls):
    """Gives a class a name that configs may use: of a model for `model.name`, of an objective for `objective.name`.

    Args:
        name: str, without ":".
        cls: a `vaezoo.base.StochasticModel`, or a `vaezoo.objectives.Objective`.

    Raises:
        ValueError: the class is neither, or the name is not a string, has a ":", or is another class's.
    """
    kinds = _kinds()
    found = [kind for kind, (_, base) in kinds.items() if isinstance(cls, type) and issubclass(cls, base)]
    if not found:
        raise ValueError(f"`cls` must be a StochasticModel or an Objective. Received: {cls!r}")
    if not isinstance(name, str) or ":" in name:
        raise ValueError(f"`name` must be a string without ':'. Received: {name!r}")
    names, _ = kinds[found[0]]
    if names.setdefault(name, cls) is not cls:
        raise ValueError(f"`name` must not be in use. Received: {name!r}, which is {names[name]!r}")


def model(name):
    """Returns the model class of a config's `model.name`."""
    return _class("model.name", name)


def objective(name):
    """Returns the objective class of a config's `objective.name`."""
    return _class("objective.name", name)


def _kinds():
    """Returns, by the key of configs, the classes with names and what they all derive from."""
    from vaezoo.base import StochasticModel
    from vaezoo.base.objectives import Objective
    from vaezoo.models import MODELS, OBJECTIVES

    return {"model.name": (MODELS, StochasticModel), "objective.name": (OBJECTIVES, Objective)}


def _class(key, name):
    known, base = _kinds()[key]
    if ":" not in str(name):
        return known[checks.one_of(key, name, known)]
    module_name, _, class_name = name.partition(":")
    if os.getcwd() not in sys.path:  # a console script's path begins with its own folder, not with the caller's
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`{key}` must name a module that can be imported. Received: {name!r}: {type(error).__name__}: {reason}"
        ) from error
    classes = {found: value for found, value in vars(module).items() if isinstance(value, type)}
    cls = classes.get(class_name)
    if cls is None or not issubclass(cls, base):
        own = [found for found, value in classes.items() if issubclass(value, base)]
        hint = checks.did_you_mean(class_name, own)
        raise ValueError(f"`{key}` must name a {base.__name__} in {module_name}. Received: {class_name!r}.{hint}")
    return cls


def arguments(cls):
    """Returns the names that a class takes as arguments; those of its base, too, if it passes `**kwargs` on."""
    found = []
    for each in cls.__mro__:
        if "__init__" not in vars(each):
            continue
        if each.__module__.partition(".")[0] in ("keras", "builtins"):
            break
        parameters = list(inspect.signature(each.__init__).parameters.values())[1:]
        found += [parameter.name for parameter in parameters if parameter.kind not in (VAR_POSITIONAL, VAR_KEYWORD)]
        if not any(parameter.kind is VAR_KEYWORD for parameter in parameters):
            break
    return list(dict.fromkeys(found))
