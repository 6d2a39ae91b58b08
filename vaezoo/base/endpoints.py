"""Signatures as servers want them: checked in the graph, with forms for 8-bit images and PNG files, in float32."""

import keras
import tensorflow as tf

from vaezoo.base.signatures import Signature
from vaezoo.domains import to_unit_interval

PNG_CHANNELS = 1, 3, 4  # TensorFlow reads and writes no others


def in_float32(model):
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


def endpoints(model):
    """Returns every form of the model's signatures that a SavedModel has, as a list of `Signature`s.

    Their functions refuse wrong shapes, NaN and values out of range when the graph runs.
    """
    found = []
    for signature in model.export_signatures():
        if signature.saved_model:
            signature = signature._replace(function=traced(signature.function, signature.inputs))  # once for all forms
            forms = signature, *_forms_for_bytes(signature, model.example_shape)
            found += [form._replace(function=_checked(form, model.domain)) for form in forms]
    return found


def traced(function, inputs):
    """Returns the concrete function of `tf.TensorSpec`s."""

    def seedless(*inputs):
        # Inherited from `keras.utils.set_random_seed`, a seed would be written into the LiteRT file, which then draws
        # the same images in every process.
        tf.compat.v1.get_default_graph().seed = None
        return function(*inputs)

    return tf.function(seedless, input_signature=inputs, autograph=False).get_concrete_function()


def _checked(signature, domain):
    """Returns the signature's function behind assertions of what its inputs' types and shapes do not say."""

    def function(*inputs):
        # A server hands over what it is sent: another shape with as many values would pass for images of this one.
        inputs = [tf.ensure_shape(value, spec.shape) for spec, value in zip(signature.inputs, inputs, strict=True)]
        for spec, value in zip(signature.inputs, inputs, strict=True):
            what = [f"`{spec.name}` must have at least one row. Received: 0"]
            tf.debugging.Assert(tf.shape(value)[0] > 0, what)
            if value.dtype.is_floating:
                what = [f"`{spec.name}` must be finite. Received: NaN or infinity"]
                tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(value)), what)
            if spec.name == domain.name and value.dtype.is_floating:
                low, high = tf.reduce_min(value), tf.reduce_max(value)
                what = [f"`{domain.name}` must be {domain.expected}. Received: from", low, "to", high]
                tf.debugging.Assert(domain.legal(value), what)
        return signature.function(*inputs)

    return function


def _forms_for_bytes(signature, image_shape):
    """Yields the forms of a traced signature for images of 8 bits: `<name>_uint8`, and `<name>_png` for PNG files.

    Counts have none, and examples that are not [H, W, C] have no PNG files.

    Tensors are called `<...>_bytes` where TensorFlow Serving is to read and write base64 in JSON.
    """
    as_png = len(image_shape) == 3 and image_shape[-1] in PNG_CHANNELS
    names = [spec.name for spec in signature.inputs]
    if "images" in names:
        index = names.index("images")

        def replaced(inputs, value):
            return (*inputs[:index], value, *inputs[index + 1 :])

        def from_uint8(*inputs):
            return signature.function(*replaced(inputs, to_unit_interval(inputs[index])))

        def from_png(*inputs):
            return signature.function(*replaced(inputs, to_unit_interval(_read_png(inputs[index], image_shape))))

        images = tf.TensorSpec([None, *image_shape], tf.uint8, "images")
        yield Signature(f"{signature.name}_uint8", from_uint8, replaced(signature.inputs, images))
        if as_png:
            png = tf.TensorSpec([None], tf.string, "png_bytes")
            yield Signature(f"{signature.name}_png", from_png, replaced(signature.inputs, png))
    elif "images" in signature.function.structured_outputs and as_png:

        def to_png(*inputs):
            outputs = {**signature.function(*inputs)}
            return {"png_bytes": _write_png(outputs.pop("images")), **outputs}

        yield Signature(f"{signature.name}_png", to_png, signature.inputs)


def _read_png(png_bytes, image_shape):
    """Returns the images [n, H, W, C], uint8, of n PNG files of that size; grey or coloured, as the model has it."""

    def row(png):
        return tf.ensure_shape(tf.io.decode_png(png, channels=image_shape[-1]), image_shape)

    return tf.map_fn(row, png_bytes, fn_output_signature=tf.TensorSpec(image_shape, tf.uint8))


def _write_png(images):
    """Returns the PNG files, [n], of images [n, H, W, C] in [0, 1]."""
    return tf.map_fn(tf.io.encode_png, tf.cast(tf.round(255.0 * images), tf.uint8), fn_output_signature=tf.string)
