"""Half precision by the global policy and by `dtype=`: the same model, whose densities are float32."""

import keras
import numpy as np
import pytest
from conftest import CASES

from vaezoo.models import MODELS


@pytest.fixture
def both(system):
    """The system, with one set of weights: `dtype=` says its policy, and the global policy does."""
    named = MODELS[system](**CASES[system].args, dtype="mixed_float16")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        ambient = MODELS[system](**CASES[system].args)
    finally:
        keras.config.set_dtype_policy(before)
    ambient.set_weights(named.get_weights())
    return named, ambient


def test_both_ways_are_one_model_with_densities_in_float32(both, system, images):
    noise = both[0].noise(1, len(images), seed=(1, 2))
    terms = [model.terms(images, noise) for model in both]
    for named, ambient in zip(*(of[:2] for of in terms), strict=True):  # log p(x | z) and the KL
        assert named.dtype == ambient.dtype == "float32"
        np.testing.assert_array_equal(named, ambient)
    model = both[1]
    np.testing.assert_array_equal(model(images), model.decode(model.encode(images)))  # images are not rounded
    model.compile(keras.optimizers.SGD(1e-3), CASES[system].objective, run_eagerly=True)
    history = model.fit(images, batch_size=len(images), verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_kernel_of_a_weight_normalised_layer_is_made_in_float32(policy):
    """Made in half precision, v / ||v|| has relative errors of 1e-3 and more before the product."""
    from vaezoo.layers.weight_norm import Dense

    layer, seen = Dense(200, 3, dtype=policy), []
    layer.linear = lambda x, kernel: seen.append(kernel) or x[:, :3]
    layer(np.ones((1, 200), np.float32))
    expected = np.array(layer.v) / np.linalg.norm(layer.v, axis=0)
    np.testing.assert_array_equal(seen[0], expected.astype(seen[0].dtype.as_numpy_dtype))
