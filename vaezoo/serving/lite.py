"""LiteRT files, and a report of how far they are from Keras and how fast."""

import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from vaezoo.base.endpoints import traced
from vaezoo.serving.saved_model import write

# LiteRT files: the precision of the weights -> the converter's settings. Activations are float32 in all of them.
PRECISIONS = {
    "float32": {},
    "float16": {"optimizations": [tf.lite.Optimize.DEFAULT], "supported_types": [tf.float16]},
    "int8": {"optimizations": [tf.lite.Optimize.DEFAULT]},  # dynamic range: large weights only, a scale per channel
}
REPORT_ROWS, REPORT_CALLS = 16, 30


# LiteRT.


def signatures(model):
    """Returns the model's signatures for LiteRT; a model may have none, and then no LiteRT files."""
    return [signature for signature in model.export_signatures() if signature.lite]


def converted(model):
    """Returns LiteRT files, bytes by precision; an op that is not among LiteRT's own makes the conversion fail."""
    functions = {signature.name: traced(signature.function, signature.inputs) for signature in signatures(model)}
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        write(functions, folder)
        for precision, settings in PRECISIONS.items():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            converter.optimizations = settings.get("optimizations", [])
            converter.target_spec.supported_types = settings.get("supported_types", [])
            files[precision] = converter.convert()
    return files


def lite_report(model, converted):
    """Measures LiteRT files against the model, on this machine's CPU.

    Signatures of examples are measured on such as the model draws, or else on zeros and ones; `decode` on their codes,
    or else on standard normal ones; `sample`, which draws anew at each call, is not measured.

    Args:
        model: a float32 `StochasticModel`.
        converted: dict, precision -> bytes of a LiteRT file.

    Returns:
        A dict: precision -> `bytes` and, for each of the two, `max_difference` (largest absolute difference from Keras,
        in units of the output), `relative_difference` (root mean square of the difference over that of the output) and
        `milliseconds` (median latency of one row).
    """
    from ai_edge_litert.interpreter import Interpreter

    examples, rng = model.domain.name, np.random.default_rng(0)
    arrays = {examples: rng.integers(0, 2, (REPORT_ROWS, *model.example_shape)).astype(np.float32)}
    if model.generate is not None and model.domain.drawn:  # means of counts are no counts
        arrays[examples] = model.sample(REPORT_ROWS, seed=0).numpy()
    if model.decode is not None:
        arrays["z"] = rng.standard_normal((REPORT_ROWS, *model.latent_shape)).astype(np.float32)
        if model.encode is not None:
            arrays["z"] = model.encode(arrays[examples]).numpy()
    inputs, expected = {}, {}
    for signature in signatures(model):
        names = [spec.name for spec in signature.inputs]
        if arrays.keys() >= set(names):
            inputs[signature.name] = {name: arrays[name] for name in names}
            (output,) = signature.function(*inputs[signature.name].values()).values()
            expected[signature.name] = output.numpy()
    report = {}
    for precision, content in converted.items():
        interpreter = Interpreter(model_content=content)
        report[precision] = {"bytes": len(content)}
        for signature, arrays in inputs.items():
            run = interpreter.get_signature_runner(signature)
            (output,) = run(**arrays).values()
            difference = output - expected[signature]
            one, seconds = {key: value[:1] for key, value in arrays.items()}, []
            run(**one)  # allocates for one row
            for _ in range(REPORT_CALLS):
                start = time.perf_counter()
                run(**one)
                seconds.append(time.perf_counter() - start)
            report[precision][signature] = {
                "max_difference": float(np.max(np.abs(difference))),
                "relative_difference": float(np.sqrt(np.mean(difference**2) / np.mean(expected[signature] ** 2))),
                "milliseconds": round(1000 * statistics.median(seconds), 3),
            }
    return report
