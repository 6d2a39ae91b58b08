"""The switch that makes layers set themselves from the inputs of a first, eager forward pass."""

import contextlib
import contextvars

_initializing = contextvars.ContextVar("initializing", default=False)


@contextlib.contextmanager
def data_dependent_initialization():
    """Makes the layers of this file set themselves from the inputs that they are called with, eagerly."""
    token = _initializing.set(True)
    try:
        yield
    finally:
        _initializing.reset(token)


def initializing():
    """Tells whether layers are to set themselves from their inputs."""
    return _initializing.get()
