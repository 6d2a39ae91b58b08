"""The functions of an exported model."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vaezoo.inference.terms import elbo
from vaezoo.noise import Stream, noise_seed


class Signature(NamedTuple):
    """One function of an exported model.

    Attributes:
        name: what it is served as.
        function: tensors, in the order of `inputs` -> dict of named tensors.
        inputs: `tf.TensorSpec`s with names.
        saved_model, lite: which of the two exports it belongs to.
    """

    name: str
    function: Callable
    inputs: tuple
    saved_model: bool = True
    lite: bool = True


def of(model):
    """Returns the signatures of what a model has: those of its methods that are not None."""
    found = []
    for method, make in MAKERS.items():
        if getattr(model, method) is not None:
            found += make(model)
    return found


def examples_spec(model):
    """Returns the spec of a batch of the model's examples; it is named by their domain."""
    return tf.TensorSpec([None, *model.example_shape], tf.float32, model.domain.name)


def _encode(model):
    def encode(examples):
        return {"z": model.encode(examples)}

    return [Signature("encode", encode, (examples_spec(model),))]


def _decode(model):
    def decode(z):
        return {model.domain.name: model.decode(z)}

    return [Signature("decode", decode, (tf.TensorSpec([None, *model.latent_shape], tf.float32, "z"),))]


def _sample(model):
    def sample(seed):
        return {model.domain.name: model.generate(noise_of_rows(model, seed, Stream.SAMPLE))}

    def sample_lite(num_samples):
        noise = unseeded(tf.raw_ops.RandomStandardNormal, tf.stack([1, num_samples, *model.noise_shape]))
        return {model.domain.name: model.generate(noise)}

    return [
        Signature("sample", sample, (tf.TensorSpec([None], tf.int32, "seed"),), lite=False),
        Signature("sample", sample_lite, (tf.TensorSpec([], tf.int32, "num_samples"),), saved_model=False),
    ]


def _score(model):
    def score(examples, seed):
        return {"elbo": elbo(model.terms(examples, noise_of_rows(model, seed, Stream.IMPORTANCE)))}

    inputs = examples_spec(model), tf.TensorSpec([None], tf.int32, "seed")
    return [Signature("score", score, inputs, lite=False)]


def _classify(model):
    def classify(examples):
        return {"probabilities": model.class_probabilities(examples)}

    return [Signature("classify", classify, (examples_spec(model),))]


# The methods that signatures are made of, in the order of the signatures.
MAKERS = {
    "encode": _encode,
    "decode": _decode,
    "generate": _sample,
    "terms": _score,
    "class_probabilities": _classify,
}


def unseeded(op, shape):
    """Returns float32 draws that differ at every call, for LiteRT, whose builtin ops take no seed from the caller.

    `tf.random` would take over the seed of `keras.utils.set_random_seed`, with which every process draws the same, and
    refuses to be traced without one under `enable_op_determinism`.

    Args:
        op: `tf.raw_ops.RandomStandardNormal` or `tf.raw_ops.RandomUniform`.
        shape: int32 tensor.
    """
    return op(shape=shape, dtype=tf.float32, seed=0, seed2=0)


def noise_of_rows(model, seeds, stream):
    """Returns the noise of one draw per row, [1, n, D]; row i depends on seeds[i] only, whatever the batch."""

    def row(seed):
        return model.noise(1, 1, seed=noise_seed(seed, stream))[0, 0]

    rows = tf.map_fn(row, seeds, fn_output_signature=tf.TensorSpec(model.noise_shape))  # [n, D]
    return rows[tf.newaxis]
