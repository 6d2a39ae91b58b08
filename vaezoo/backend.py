"""Importing this file raises `ImportError` unless Keras runs on TensorFlow; do so before Keras is imported."""

import json
import os
import pathlib


def _require_tensorflow():
    """Raises `ImportError` if Keras is set to another backend: by the environment, or by its own file."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        configured = json.loads((home / "keras.json").read_text("utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):  # no file, or none of Keras'
        configured = "tensorflow"
    backend = os.environ.get("KERAS_BACKEND") or configured
    if backend != "tensorflow":
        raise ImportError(
            f"vaezoo needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow. Received: {backend!r}"
        )


_require_tensorflow()
