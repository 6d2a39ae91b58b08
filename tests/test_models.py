"""The battery over every system in `MODELS`, at tiny sizes.

Nearly all of its time is spent on tracing training steps, which takes as long as several eager ones: a test that needs
only a step or two runs them eagerly. `make test` runs the battery over one system of each shape, see `one_per_shape`.
"""

import inspect
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CASES, IMAGE_SHAPE, how_it_trains, one_per_shape

from vaezoo.base.labelled import LabelledModel
from vaezoo.base.semi_supervised import SemiSupervisedModel
from vaezoo.models import MODELS, SemiSupervisedSteinVAE
from vaezoo.noise import noise_seed
from vaezoo.objectives import ELBO, IWAE, Stein, elbo, iwae

each_system = pytest.mark.parametrize("system", sorted(MODELS))
each_way_to_train = pytest.mark.parametrize("system", one_per_shape(how_it_trains))
OBJECTIVES = [ELBO(), IWAE(3)]  # on the KL's closed form, and on draws of it


@each_system
def test_tiny_arguments_are_all_off_their_defaults(system):
    parameters = inspect.signature(MODELS[system]).parameters
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    assert CASES[system].args.keys() == named
    assert all(CASES[system].args[name] != parameters[name].default for name in named)


@each_system
def test_config_round_trip_keeps_every_argument(system):
    model = MODELS[system](**CASES[system].args, name="other", dtype="mixed_bfloat16")
    again = MODELS[system].from_config(model.get_config())
    assert again.get_config() == model.get_config()
    config = model.get_config()
    assert {name: config[name] for name in CASES[system].args} == CASES[system].args
    assert (again.name, again.dtype_policy.name) == ("other", "mixed_bfloat16")


@each_system
def test_a_misspelt_argument_fails(system):
    with pytest.raises((TypeError, ValueError), match="latnet_dim"):
        MODELS[system](**CASES[system].args, latnet_dim=3)


@pytest.fixture(scope="module")
def in_another_process():
    """Returns a function that lets another process read model.keras in a folder and train it further."""
    script = """
        import pathlib, sys
        import keras, numpy as np, vaezoo.models
        for line in sys.stdin:
            folder = pathlib.Path(line.strip())
            model = keras.models.load_model(folder / "model.keras")
            images = np.load(folder / "images.npy")
            np.save(folder / "codes.npy", model.encode(images))
            loss = model.fit(images, epochs=1, shuffle=False, verbose=0).history["loss"]
            np.save(folder / "loss.npy", loss)
            np.save(folder / "codes_after.npy", model.encode(images))
            assert model.objective.num_samples == 2 and model.seed == 7, model.get_compile_config()
            print("done", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(folder):
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    yield read
    process.stdin.close()
    assert process.wait() == 0


@each_way_to_train
def test_saved_model_is_the_same_in_another_process(system, make_tiny, images, tmp_path, in_another_process):
    model = make_tiny(system, objective=ELBO(num_samples=2, analytic_kl=False), seed=7, run_eagerly=True)
    model.fit(images, batch_size=40, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    in_another_process(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), model.encode(images))
    # One more step: objective, optimizer state, iteration count and with it the noise came back too.
    loss_here = model.fit(images, epochs=1, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(np.load(tmp_path / "loss.npy"), loss_here, rtol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "codes_after.npy"), model.encode(images), atol=1e-6)


def test_weights_saved_and_loaded_give_the_same_codes(system, make_tiny, images, tmp_path):
    model, other = make_tiny(system), make_tiny(system)
    assert not np.array_equal(model.encode(images), other.encode(images))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.encode(images), other.encode(images))


def test_every_trainable_variable_gets_a_finite_gradient(system, make_tiny, images):
    model = make_tiny(system, run_eagerly=True)
    # A step before, for a kernel behind a weight that starts at 0 has no gradient.
    model.fit(images, batch_size=40, verbose=0)
    variables = model.bound_variables
    if isinstance(model, SemiSupervisedSteinVAE):  # p(y | z), which labels reach and bounds of images do not
        variables = [variable for variable in variables if "logits" not in variable.path]
    for objective in OBJECTIVES:
        noise = model.noise(objective.num_samples, len(images), seed=[0, 0])
        with tf.GradientTape() as tape:
            terms = model.terms(images, noise, analytic_kl=objective.analytic_kl)
            loss = -tf.reduce_mean(objective(terms, 1))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            assert gradient is not None, (objective, variable.path)
            assert np.isfinite(gradient).all(), (objective, variable.path)
            assert np.any(gradient), (objective, variable.path)


@each_way_to_train
def test_fit_with_xla_traces_its_step_once_and_lowers_the_loss(system, make_tiny, images):
    """Without XLA, half precision has to do it, below."""
    # Not Adam, whose kernels for each variable take as long to compile as the model.
    model = make_tiny(system, keras.optimizers.SGD(1e-2, global_clipnorm=1.0), jit_compile=True)
    model.initialize(images)
    noise = model.noise(20, len(images), seed=[0, 0])
    bound = np.mean(elbo(model.terms(images, noise)))
    traces, train_step = [], model.train_step
    model.train_step = lambda data: traces.append(0) or train_step(data)
    history = model.fit(images, batch_size=20, epochs=30, verbose=0).history
    assert len(traces) == 1
    if CASES[system].frozen_parts:  # of M1M2, the noise of log p(x | a) stays as it is: on the same noise, then
        assert np.mean(elbo(model.terms(images, noise))) > bound + 0.05
    else:
        assert history["loss"][-1] < history["loss"][0] - 1.0
    assert set(history) >= {"loss", "log_likelihood"}
    assert {"elbo", "kl"} <= set(history) or isinstance(model.objective, Stein)


def test_xla_equals_plain_on_the_same_noise(system, make_tiny, images):
    model = make_tiny(system)
    noise = model.noise(2, len(images), seed=[0, 0])
    plain = tf.function(model.terms)(images, noise)
    compiled = tf.function(model.terms, jit_compile=True)(images, noise)
    for one, other in zip(plain[:2], compiled[:2], strict=True):  # log p(x | z) and the KL
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_same_noise_same_terms_and_another_seed_others(system, make_tiny, images):
    model = make_tiny(system)
    draws = [model.terms(images, model.noise(2, len(images), seed=noise_seed(seed, 5))) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0].log_lik, draws[1].log_lik)
    assert not np.array_equal(draws[0].log_lik, draws[2].log_lik)
    assert draws[0].log_lik.shape == (2, len(images))
    assert draws[0].kl.shape[:2] == (2, len(images))


def test_k_sample_bounds_rise_with_k(system, make_tiny, images):
    model = make_tiny(system)
    means = []
    for num_samples in (1, 5, 50):
        noise = model.noise(num_samples * 100, len(images), seed=[1, 0])
        terms = model.terms(images, noise)
        shape = [100, num_samples, len(images)]
        repeats = [
            iwae(type(terms)(*parts))
            for parts in zip(
                tf.reshape(terms.log_lik, shape),
                tf.reshape(terms.kl, [*shape, -1]),
                strict=True,
            )
        ]
        means.append(np.mean(repeats))
    assert means[0] < means[1] < means[2]


def test_terms_of_a_batch_are_those_of_its_rows(system, make_tiny, images):
    model = make_tiny(system)
    noise = model.noise(2, 8, seed=[0, 0])
    whole = model.terms(images[:8], noise)
    for row in range(8):
        alone = model.terms(images[row : row + 1], noise[:, row : row + 1])
        np.testing.assert_allclose(elbo(alone)[0], elbo(whole)[row], rtol=1e-5)


def test_uint8_images_are_read_as_256_levels(system, make_tiny, images):
    model = make_tiny(system, run_eagerly=True)
    stored = np.round(images * 255).astype("uint8")
    np.testing.assert_allclose(model.encode(stored), model.encode(stored / np.float32(255)), atol=1e-6)
    assert np.isfinite(model.evaluate(stored, verbose=0)).all()


def test_samples_are_images_and_follow_the_seed_and_the_temperature(system, make_tiny):
    model = make_tiny(system)
    one, same, other = (np.asarray(model.sample(5, seed=seed)) for seed in (0, 0, 1))
    assert one.shape == (5, *IMAGE_SHAPE)
    assert one.min() >= 0
    assert one.max() <= 1
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    of_class = {"label": 1} if isinstance(model, SemiSupervisedModel) else {}
    cold = np.asarray(model.sample(5, seed=0, temperature=0.0, **of_class))
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), rtol=1e-6, atol=1e-7)  # of images in [0, 1]


def test_predict_reconstructs(system, make_tiny, images):
    model = make_tiny(system)
    np.testing.assert_allclose(model.predict(images, verbose=0), model.decode(model.encode(images)), rtol=1e-5)


@each_way_to_train
def test_mixed_precision_keeps_densities_in_float32(system, images):
    """In float16, whose range is the narrowest and whose gradients are scaled."""
    model = MODELS[system](**CASES[system].args, dtype="mixed_float16")
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(3e-3)), CASES[system].objective)
    terms = model.terms(images, model.noise(2, len(images), seed=[0, 0]))
    assert terms.log_lik.dtype == terms.kl.dtype == tf.float32
    history = model.fit(images, batch_size=20, epochs=20, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    learnt = "kl" if CASES[system].frozen_parts else "loss"  # of M1M2, log p(x | a) is noise that does not fall
    assert history[learnt][-1] < history[learnt][0]


@each_way_to_train
def test_training_data_of_every_common_kind_gives_the_same_loss(system, make_tiny, images):
    labels = np.zeros(len(images))
    dataset = tf.data.Dataset.from_tensor_slices
    kinds = {
        "array": dict(x=images, batch_size=20),
        "array and labels": dict(x=images, y=labels, batch_size=20),
        "dataset": dict(x=dataset(images).batch(20)),
        "dataset of pairs": dict(x=dataset((images, labels)).batch(20)),
        "float64": dict(x=images.astype("float64"), batch_size=20),
    }
    if issubclass(MODELS[system], LabelledModel):  # to which labels mean something
        del kinds["array and labels"], kinds["dataset of pairs"]
    losses = {}
    for kind, arguments in kinds.items():
        keras.utils.set_random_seed(0)
        model = make_tiny(system, run_eagerly=True)
        model.initialize(images)  # or else weight-normalised layers would be set from the first 20 or 40 images
        losses[kind] = model.fit(**arguments, shuffle=False, verbose=0).history["loss"][-1]
    assert np.ptp(list(losses.values())) < 1e-3 * abs(losses["array"]), losses


@pytest.mark.parametrize("system", ["vae", *(pytest.param(s, marks=pytest.mark.rest) for s in MODELS if s != "vae")])
def test_steps_per_execution_changes_nothing_but_speed(system, make_tiny, images):
    codes = []
    for steps in (1, 4):
        keras.utils.set_random_seed(0)
        model = make_tiny(system, steps_per_execution=steps)
        model.fit(images, batch_size=10, epochs=3, shuffle=False, verbose=0)
        codes.append(model.encode(images))
    np.testing.assert_allclose(*codes, atol=1e-6)
