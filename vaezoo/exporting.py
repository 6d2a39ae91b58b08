"""Exports that run without vaezoo: a SavedModel, which TensorFlow Serving loads, and a LiteRT file."""

import pathlib
import re
import tempfile

import keras
import tensorflow as tf

from vaezoo import files


def export(model, directory, name):
    """Writes a model's `export_signatures()` as `directory/name/<version>/` and `directory/name.tflite`.

    The version is one above the highest there is, and TensorFlow Serving serves the highest. An existing version is
    never touched; the LiteRT file is replaced. Both are written aside and renamed once both are complete. They compute
    in float32, whatever the model's dtype policy.

    Args:
        model: a `vaezoo.base.LatentVariableModel`, compiled or not.
        directory: path of a folder, which is made if need be; files of other models may be in it.
        name: what the model is served as: letters, digits, "_", "-", "." and blanks.

    Returns:
        The paths of the version's folder and of the LiteRT file, a list of two `pathlib.Path`s.

    Raises:
        ValueError: `name` is not as described.
        OSError: the folder cannot be written to.
    """
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError(f"`name` must be letters, digits, '_', '-', '.' and blanks, no path. Received: {name!r}")
    version, lite = _next_version(pathlib.Path(directory) / name), pathlib.Path(directory) / f"{name}.tflite"
    with files.atomic(lite) as lite_aside, files.atomic(version) as version_aside:
        signatures = _in_float32(model).export_signatures()
        _save([signature for signature in signatures if signature.saved_model], version_aside)
        lite_aside.write_bytes(_converted([signature for signature in signatures if signature.lite]))
    return [version, lite]


def _next_version(folder):
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return folder / str(max(versions, default=0) + 1)


def _in_float32(model):
    """Returns the model, or a float32 one with its weights if it computes in half precision.

    LiteRT has no half-precision matrix product among its builtin ops, and on a CPU half precision is slower.
    """
    if model.compute_dtype == "float32":
        return model
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for layers that were built with the global policy
    try:
        twin = type(model).from_config({**model.get_config(), "dtype": "float32"})
    finally:
        keras.config.set_dtype_policy(policy)
    twin.set_weights(model.get_weights())
    return twin


def _save(signatures, path):
    """Writes a SavedModel; its first signature is also what is served by default."""
    functions = {signature.name: _traced(signature) for signature in signatures}
    functions["serving_default"] = functions[signatures[0].name]
    # Not the model itself: Keras would trace its `call` with inputs of unknown rank, which fails.
    variables = tf.Module()
    variables.of_signatures = [list(function.graph.variables) for function in functions.values()]
    tf.saved_model.save(variables, str(path), signatures=functions)


def _traced(signature):
    def function(*inputs):
        # Inherited from `keras.utils.set_random_seed`, a seed would be written into the LiteRT file, which then draws
        # the same images in every process.
        tf.compat.v1.get_default_graph().seed = None
        return signature.function(*inputs)

    return tf.function(function, input_signature=signature.inputs, autograph=False).get_concrete_function()


def _converted(signatures):
    """Returns a LiteRT file's bytes; an op that is not among LiteRT's own makes the conversion fail."""
    with tempfile.TemporaryDirectory() as folder:
        _save(signatures, folder)
        names = [signature.name for signature in signatures]
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()
