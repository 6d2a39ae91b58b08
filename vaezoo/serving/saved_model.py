"""SavedModels that run without vaezoo, and that TensorFlow Serving loads."""

import importlib.metadata
import json
import pathlib
import tempfile

import tensorflow as tf

import vaezoo
from vaezoo.base.endpoints import endpoints, traced


def save(model, path, name, card=None):
    """Writes a SavedModel with every form of the model's signatures; its first one is also what is served by default.

    Returns:
        A dict from the signatures' names to their concrete functions.
    """
    functions = {form.name: traced(form.function, form.inputs) for form in endpoints(model)}
    with tempfile.TemporaryDirectory() as folder:
        asset = pathlib.Path(folder) / "model_card.json"
        asset.write_text(json.dumps(_card(model, name, functions, card), indent=2) + "\n", "utf-8")
        write(functions, path, asset)
    return functions


def write(functions, path, asset=None):
    """Writes concrete functions, a dict by name, as a SavedModel; the first one is served by default, too."""
    # Not the model itself: Keras would trace its `call` with inputs of unknown rank, which fails.
    module = tf.Module()
    module.of_signatures = [list(function.graph.variables) for function in functions.values()]
    if asset is not None:
        module.model_card = tf.saved_model.Asset(str(asset))
    default = {"serving_default": next(iter(functions.values()))}
    tf.saved_model.save(module, str(path), signatures={**functions, **default})


def _card(model, name, functions, card):
    def described(specs):
        return {key: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for key, spec in specs.items()}

    return {
        "name": name,
        "system": type(model).__name__,
        "vaezoo": vaezoo.__version__,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "image_shape": list(model.example_shape),
        "image_range": model.domain.ranges,
        "latent_shape": list(getattr(model, "latent_shape", ())),
        "signatures": {
            key: {
                "inputs": described({spec.name: spec for spec in function.structured_input_signature[0]}),
                "outputs": described(function.structured_outputs),
            }
            for key, function in functions.items()
        },
        "card": card,
    }
