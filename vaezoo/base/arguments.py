"""The arguments that an object was constructed with, so that it can be made again.

Keras captures some of them itself, but an argument that a constructor hands on to its base class under another value
is recorded with that value, and one whose type Keras does not know ends the capture in silence.
"""

import inspect

import keras

PLAIN = str, bytes, int, float, bool, type(None)


def captured(cls, args, kwargs):
    """Returns the arguments of `cls(*args, **kwargs)` by name, defaults included; containers are copied.

    Positional arguments that a constructor passes on as `*args` get the names that the next constructor in the method
    resolution order gives them. Arguments that do not fit the signature give an empty dict: the constructor says why.
    """
    try:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    found = {}
    for index, parameter in enumerate(bound.signature.parameters.values()):
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= value
        elif parameter.kind is parameter.VAR_POSITIONAL:
            found |= dict(zip(_names_passed_on(cls), value, strict=False))
        elif index:  # not self
            found[parameter.name] = value
    return {name: _copied(value) for name, value in found.items()}


def _names_passed_on(cls):
    """Returns the names of the positional arguments of the first constructor above `cls` that names them all."""
    for base in cls.__mro__[1:]:
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        if not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return []


def _copied(value):
    """Returns a value whose lists and dicts, inner ones too, the caller cannot change any more."""
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


def serialized(value):
    """Returns an argument as a config holds it: plain values as they are, functions, layers and arrays serialized."""
    if type(value) in (list, tuple):
        return type(value)(map(serialized, value))
    if type(value) is dict:
        return {key: serialized(item) for key, item in value.items()}
    return value if type(value) in PLAIN else keras.saving.serialize_keras_object(value)


def deserialized(value):
    """Undoes `serialized`."""
    if type(value) in (list, tuple):
        return type(value)(map(deserialized, value))
    if type(value) is dict:
        if "class_name" in value and "config" in value:
            return keras.saving.deserialize_keras_object(value)
        return {key: deserialized(item) for key, item in value.items()}
    return value
