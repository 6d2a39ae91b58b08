"""What Keras' own exporters, callbacks and outer models ask of a model."""

import importlib.util
import os
import sys

import keras

from vaezoo.base import onnx_ops, signatures
from vaezoo.base.endpoints import endpoints, in_float32
from vaezoo.base.metrics import ExampleMean, direct

NEEDED = {"onnx": ("tf2onnx", "onnx"), "openvino": ("openvino",)}  # packages of an export format


class Exported(keras.Model):
    """A model that Keras exports, called before or not, and that other models may contain."""

    _default_save_signature = None  # or Keras traces `call` once more, without an input shape

    @property
    def has_call(self):
        """Whether the model maps examples to something: whether `call` is there."""
        return type(self).call is not keras.Model.call

    def export_signatures(self):
        """Returns the list of `Signature`s that exporters and tests loop over; the first one is served by default."""
        return signatures.of(self)

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """Exports the model, compiled, called and trained or not, in one of Keras' formats; it computes in float32.

        All formats hold the model's call. A SavedModel calls it `serve`, its default signature, and holds the
        signatures of `vaezoo.export` too: `encode`, `decode`, `sample` and others that the model has, each for floats,
        for 8-bit images and for PNG files. A model without a call has these alone.

        Args:
            filepath: path of a folder, or of a file: ".onnx", ".xml" (OpenVINO) or ".tflite" (LiteRT).
            format: "tf_saved_model", "onnx", "openvino" or "litert".
            verbose: whether to print what was written; None prints.
            input_signature: list of one spec, of a batch of examples; None has any number of examples.
            **kwargs: of the format's exporter, as in `keras.Model.export`.

        Raises:
            ValueError: the format is unknown to Keras, or needs a call and the model has none.
            ImportError: a package that the format needs is not installed.
        """
        missing = [name for name in NEEDED.get(format, ()) if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f"`format={format!r}` needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        if not self.has_call and format != "tf_saved_model":
            raise ValueError(f"`format` must be 'tf_saved_model' for a model without a call. Received: {format!r}")
        model = in_float32(self)
        input_signature = input_signature or [signatures.examples_spec(model)]
        if format == "tf_saved_model":
            _write_saved_model(model, filepath, verbose, input_signature, kwargs)
        else:
            if format == "onnx":
                onnx_ops.register()
            keras.Model.export(model, os.fspath(filepath), format, verbose, input_signature, **kwargs)

    def get_build_config(self):
        """Returns None: the constructor builds the model, and loading needs no call."""

    @property
    def metrics(self):
        if sys._getframe(1).f_code is keras.layers.Layer.metrics.fget.__code__:
            # A layer around this model gathers metrics for the model around the layer. Keras leaves out those of a
            # model that is itself a layer, but not of one inside a layer: its "loss" would replace the outer loss.
            return []
        return [metric for metric in self._metrics if isinstance(metric, ExampleMean)]

    def fit(self, *args, **kwargs):
        direct(kwargs.get("callbacks"), self.metrics)
        return super().fit(*args, **kwargs)


def _write_saved_model(model, filepath, verbose, input_signature, kwargs):
    archive = keras.export.ExportArchive()
    if model.has_call:
        archive.add_endpoint("serve", lambda x: model(x, training=False), input_signature, **kwargs)
    for name, function, inputs, *_ in endpoints(model):
        archive.add_endpoint(name, function, inputs, **kwargs)
    archive.write_out(os.fspath(filepath), verbose=True if verbose is None else verbose)
