"""Bags of words: the Poisson likelihood, what is legal, where documents come from, how they are measured and shown."""

import dataclasses
import itertools
import json
import re
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import vaezoo
from scipy.stats import multinomial, poisson

from vaezoo import data, evaluation, plots
from vaezoo.data import sources
from vaezoo.inference.annealing import annealed_estimate
from vaezoo.likelihoods import LIKELIHOODS
from vaezoo.models import ADGM, AVAE, M2, VAE
from vaezoo.objectives import ELBO, elbo
from vaezoo.serving import exporting
from vaezoo.zoo import config, loading, training

WORDS = 12
# Documents on one of two topics: twenty words of the first six of the vocabulary, or as many of the last six.
RNG = np.random.default_rng(0)
TOPICS = RNG.integers(2, size=200)
RATES = np.where((np.arange(WORDS) < 6) == (TOPICS[:, np.newaxis] == 0), 3.3, 0.03)
DOCUMENTS = RNG.poisson(RATES).astype("uint16")


def make(**settings):
    keras.utils.set_random_seed(0)
    args = {"image_shape": (WORDS,), "latent_dim": 2, "hidden_units": (8, 9), "likelihood": "poisson", **settings}
    model = VAE(**args)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


@pytest.fixture(scope="module")
def trained():
    model = make()
    history = model.fit(DOCUMENTS, batch_size=20, epochs=30, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 10
    return model


# The likelihood.


def test_poisson_equals_scipy():
    layer = LIKELIHOODS["poisson"](5, (3, 2))
    features, counts = tf.random.stateless_normal([4, 5], [0, 1]), np.arange(24).reshape(4, 3, 2).astype("float32")
    rates = np.exp(layer.log_rates(features).numpy().astype("float64")).reshape(4, 3, 2)
    p = layer.distribution(features)
    np.testing.assert_allclose(p.log_prob(counts), poisson(rates).logpmf(counts).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(p.mean(), rates, rtol=1e-5)
    assert (p.batch_shape, p.event_shape) == ((4,), (3, 2))


def test_poisson_starts_at_rates_of_a_short_document():
    layer = LIKELIHOODS["poisson"](5, (2000,))
    np.testing.assert_allclose(layer.distribution(tf.zeros([1, 5])).mean(), np.full((1, 2000), 0.05), rtol=1e-6)


@pytest.mark.parametrize("log_rate", [-500.0, 80.0])
def test_poisson_has_finite_values_and_gradients_at_extreme_rates(log_rate):
    """log p(3) = 3 a - exp(a) - log 6, and its derivative by a, 3 - exp(a)."""
    layer = LIKELIHOODS["poisson"](1, (1,))
    layer.log_rates.bias.assign([log_rate])
    with tf.GradientTape() as tape:
        log_prob = layer.distribution(tf.zeros([1, 1])).log_prob([[3.0]])
    np.testing.assert_allclose(log_prob, [3 * log_rate - np.exp(log_rate) - np.log(6)], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(log_prob, layer.log_rates.bias), [3 - np.exp(log_rate)], rtol=1e-6)


# The model.


def test_terms_are_those_of_counts_and_encoders_see_their_logarithms():
    """Against the parts of the model by hand; stored bytes are counts, which nothing divides by 255."""
    model = make()
    stored = DOCUMENTS[:5].astype("uint8")
    noise = model.noise(3, 5, seed=[0, 0])
    terms = model.terms(stored, noise)
    q = model.posterior.distribution(model.encoder(np.log1p(stored.astype("float32"))))
    z = q.mean() + q.stddev() * noise
    for s in range(3):
        rates = np.exp(model.likelihood.log_rates(model.decoder(z[s])).numpy().astype("float64"))
        np.testing.assert_allclose(terms.log_lik[s], poisson(rates).logpmf(stored).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(model.encode(stored), q.mean(), atol=1e-6)


def test_counts_of_every_type_are_the_same_documents():
    models = {kind: make() for kind in ("float32", "uint16")}
    for kind, model in models.items():
        model.fit(DOCUMENTS.astype(kind), batch_size=50, epochs=1, shuffle=False, verbose=0)
    codes = models["float32"].encode(DOCUMENTS)
    for kind in ("uint8", "uint16", "int32", "int64", "float32", "float64"):
        np.testing.assert_array_equal(models["uint16"].encode(DOCUMENTS.astype(kind)), codes)


def test_codes_tell_topics_apart(trained):
    codes = np.asarray(trained.encode(DOCUMENTS))
    centres = np.stack([codes[topic == TOPICS].mean(0) for topic in (0, 1)])
    nearest = np.linalg.norm(codes[:, np.newaxis] - centres, axis=-1).argmin(-1)
    assert (nearest == TOPICS).mean() > 0.95


def test_every_trainable_variable_gets_a_finite_gradient():
    model = make()
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(elbo(model.terms(DOCUMENTS, model.noise(1, len(DOCUMENTS), seed=[0, 0]))))
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(gradient).all()
        assert np.any(gradient)


def test_mixed_precision_sees_counts_in_float32():
    model = make(dtype="mixed_bfloat16")
    terms = model.terms(DOCUMENTS, model.noise(1, len(DOCUMENTS), seed=[0, 0]))
    assert terms.log_lik.dtype == terms.kl.dtype == tf.float32
    assert np.isfinite(model.fit(DOCUMENTS, epochs=2, verbose=0).history["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        lambda args: AVAE(latent_dims=(2, 2), auxiliary_dims=(2, 2), **args),
        lambda args: M2(latent_dim=2, num_classes=2, **args),
        lambda args: ADGM(latent_dim=2, auxiliary_dim=2, num_classes=2, **args),
    ],
    ids=["avae", "m2", "adgm"],
)
def test_other_models_with_mlps_take_counts(model):
    """Bytes are the same documents as floats, and training lowers the loss."""
    model = model({"image_shape": (WORDS,), "hidden_units": (8,), "likelihood": "poisson"})
    model.compile(keras.optimizers.Adam(1e-2), ELBO(analytic_kl=False))
    noise = model.noise(2, len(DOCUMENTS), seed=[0, 0])
    np.testing.assert_allclose(*(elbo(model.terms(DOCUMENTS.astype(kind), noise)) for kind in ("uint8", "float32")))
    history = model.fit(DOCUMENTS, batch_size=20, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 1


@pytest.mark.slow
def test_annealing_agrees_with_importance_sampling(trained):
    annealed = annealed_estimate(
        trained.log_prob_given_noise, trained.noise, DOCUMENTS[:8], num_chains=20, num_temperatures=400
    ).log_likelihood
    np.testing.assert_allclose(annealed, trained.log_likelihood(DOCUMENTS[:8], num_samples=20_000), atol=0.3)


BAD = {
    "fractions": (DOCUMENTS / 2, "must hold whole numbers of at least 0. Received: 0.5 at index ["),
    "negative": (DOCUMENTS.astype("int32") - 1, "must hold whole numbers of at least 0. Received: -1 at index ["),
    "negative floats": (-1.0 * DOCUMENTS, "must hold whole numbers of at least 0. Received: -"),
    "nan": (np.where(DOCUMENTS > 3, np.nan, DOCUMENTS), "must hold whole numbers of at least 0. Received: nan at"),
    "infinite": (np.where(DOCUMENTS > 3, np.inf, DOCUMENTS), "must hold whole numbers of at least 0. Received: inf at"),
    "words": (DOCUMENTS[:, :5], "must have shape [batch, 12]. Received: [200, 5]"),
    "empty": (DOCUMENTS[:0], "must hold at least one example"),
    "logical": (DOCUMENTS > 0, "must be integers or floating point. Received dtype: bool"),
}


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "log_likelihood"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_counts(trained, method, kind):
    value, message = BAD[kind]
    with pytest.raises(ValueError) as error:
        getattr(trained, method)(value)
    assert f"`x` {message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_counts_in_a_dataset_or_a_code(trained):
    with pytest.raises(ValueError, match="`x` must hold whole numbers of at least 0. Received: 0.5"):
        trained.fit(tf.data.Dataset.from_tensor_slices(DOCUMENTS / 2).batch(10), verbose=0)
    with pytest.raises(ValueError, match="`x` must be integers or floating point. Received dtype: bool"):
        trained.encode(DOCUMENTS > 0)


# Perplexity.


def bag(words, num_words):
    return np.bincount(words, minlength=num_words)


def test_orders_are_counted():
    for words in ([0], [0, 0, 0], [0, 1, 1, 2], [2, 0, 1, 2, 1]):
        orders = len(set(itertools.permutations(words)))
        np.testing.assert_allclose(evaluation.log_orders(bag(words, 4)[np.newaxis]), [np.log(orders)], atol=1e-12)


def test_sequences_of_a_length_have_the_poissons_probability_of_it_together():
    """All 3^5 documents of 5 words; and each is of independent words, times that of its length."""
    rates, length = np.array([0.2, 1.5, 0.7]), 5
    sequences = np.array(list(itertools.product(range(3), repeat=length)))
    bags = np.stack([bag(words, 3) for words in sequences])
    log_p_words = poisson(rates).logpmf(bags).sum(-1) - evaluation.log_orders(bags)
    log_p_length = poisson(rates.sum()).logpmf(length)
    assert np.exp(log_p_words).sum() == pytest.approx(np.exp(log_p_length), rel=1e-12)
    of_words = np.log(rates / rates.sum())[sequences].sum(-1)
    np.testing.assert_allclose(log_p_words, log_p_length + of_words, rtol=1e-12)


def test_perplexity_of_equal_rates_is_the_number_of_words_and_the_length():
    """exp of the mean over words, not over documents: of one with 2 words and one with 40."""
    counts = np.array([[1, 1, 0, 0], [10, 0, 10, 20]])
    log_p = poisson(5.0).logpmf(counts).sum(-1)
    length_cost = -poisson(20.0).logpmf([2, 40]).sum()
    assert evaluation.perplexity(log_p, counts) == pytest.approx(4 * np.exp(length_cost / 42), rel=1e-12)
    given_length = multinomial([2, 40], np.full(4, 0.25)).logpmf(counts)
    assert evaluation.perplexity(given_length, counts) == pytest.approx(4.0, rel=1e-12)


def test_evaluation_has_perplexities_of_both_bounds(trained):
    documents = DOCUMENTS[:30].astype("float32")
    figures = evaluation.evaluate(trained, documents, transform="counts", num_samples=20, batch_size=16)
    log_orders, num_words = evaluation.log_orders(documents).mean(), documents.sum(-1).mean()
    for value, log_p in ((figures.perplexity, figures.log_likelihood), (figures.elbo_perplexity, figures.elbo)):
        assert value == pytest.approx(np.exp((log_orders - log_p) / num_words), rel=1e-4)
    assert 6 < figures.perplexity < figures.elbo_perplexity < 12  # a topic has 6 words of 12
    chains = {"num_chains": 4, "num_temperatures": 50}
    annealed = evaluation.evaluate_annealed(trained, documents, transform="counts", **chains)
    assert annealed.perplexity == pytest.approx(np.exp((log_orders - annealed.log_likelihood) / num_words), rel=1e-4)


def test_evaluation_tells_images_and_documents_apart(trained, make_tiny, images):
    with pytest.raises(ValueError, match="`transform` must be one for a model of counts. Received: 'unit_interval'"):
        evaluation.evaluate(trained, DOCUMENTS)
    with pytest.raises(ValueError, match="`transform` must be one for a model of images. Received: 'counts'"):
        evaluation.evaluate(make_tiny("vae"), images, transform="counts")
    assert evaluation.evaluate(make_tiny("vae"), images, num_samples=1).perplexity is None


# Where documents come from.


def write(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_npz_of_documents(tmp_path):
    words = [f"word{index}" for index in range(WORDS)]
    path = write(tmp_path / "a.npz", train=DOCUMENTS[:100], validation=DOCUMENTS[100:150], test=DOCUMENTS, words=words)
    splits = data.load(str(path))
    assert splits.words == tuple(words)
    for part, documents in {"train": DOCUMENTS[:100], "validation": DOCUMENTS[100:150], "test": DOCUMENTS}.items():
        np.testing.assert_array_equal(getattr(splits, part).images, documents)
        assert getattr(splits, part).images.dtype == np.uint16


def test_npz_without_validation_holds_out_the_last_thousand(tmp_path):
    rows = np.arange(1200, dtype="uint16").reshape(1200, 1)
    splits = data.read_npz(write(tmp_path / "a.npz", train=rows, test=rows[:3]))
    np.testing.assert_array_equal(splits.train.images, rows[:200])
    np.testing.assert_array_equal(splits.validation.images, rows[200:])
    assert splits.words is None


def test_npz_of_images(tmp_path):
    images = np.random.default_rng(0).random((20, 4, 3, 1), np.float32)
    splits = data.read_npz(write(tmp_path / "a.npz", train=images[:10], validation=images[10:15], test=images[15:]))
    np.testing.assert_array_equal(splits.test.images, images[15:])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train": DOCUMENTS},
            "must hold the arrays train and test, and may hold validation and words, and train_label,",
        ),
        ({"train": DOCUMENTS, "test": DOCUMENTS, "valid": DOCUMENTS}, "Received: test, train, valid"),
        ({"train": DOCUMENTS, "test": DOCUMENTS}, "must hold more than 1000 rows, or validation must be given"),
        ({"train": DOCUMENTS / 2, "validation": DOCUMENTS, "test": DOCUMENTS}, "`train` must hold whole numbers"),
        ({"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS[:, 1:]}, "`test` must have shape [batch, 12]"),
        (
            {"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS, "words": ["a", "b"]},
            "`words` must hold one word per count of a document. Received: 2 words, and `train` of shape [200, 12]",
        ),
        (
            {"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS, "words": ["a\nb", *"abcdefghijk"]},
            r"`words` must be without line breaks. Received: 'a\nb'",
        ),
        (
            {"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS, "words": np.arange(WORDS)},
            "`words` must be strings, [V]. Received: int64, [12]",
        ),
        (
            {"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS, "words": np.bytes_([b"a"] * WORDS)},
            "`words` must be strings, [V]. Received: |S1, [12]",
        ),
        (
            {"train": DOCUMENTS, "validation": DOCUMENTS, "test": DOCUMENTS, "words": "cat"},
            "`words` must be strings, [V]",
        ),
        ({"train": np.uint8(3), "test": DOCUMENTS}, "must hold more than 1000 rows, or validation must be given"),
        (
            {"train": DOCUMENTS[0], "validation": DOCUMENTS, "test": DOCUMENTS},
            "`train` must have shape [N, H, W, C], or",
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.load(str(write(tmp_path / "a.npz", **arrays)))
    assert "\n" not in str(error.value)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match="`data name` must be a file, if it ends in .npz"):
        data.load(str(tmp_path / "nowhere.npz"))
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match="must be a file of numpy's savez"):
        data.load(str(tmp_path / "text.npz"))
    objects = np.array([[1, 2], [3]], dtype=object)
    with pytest.raises(ValueError, match="must be a file of numpy's savez"):
        data.load(str(write(tmp_path / "objects.npz", train=objects, test=objects)))


def newsgroups(monkeypatch, fetch):
    """Puts a function (subset, download_if_missing) -> posts in the place of scikit-learn's downloader."""
    import sklearn.datasets

    def fetch_20newsgroups(*, subset, remove, download_if_missing=True):
        assert remove == ("headers", "footers", "quotes")
        return fetch(subset, download_if_missing)

    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch_20newsgroups)


def test_newsgroups_are_counts_of_the_words_of_train(monkeypatch):
    posts = {
        "train": ["The Orbit of the moon, the ORBIT!", "12 of 7 ... 5", "Goals and goals; a match"],
        "test": ["goals in orbit unheard", "Unheard", "moon"],
    }
    newsgroups(monkeypatch, lambda part, _: types.SimpleNamespace(data=posts[part], target=np.array([4, 5, 6])))
    monkeypatch.setattr(sources, "HELD_OUT", 1)
    splits = data.load("20newsgroups")
    assert splits.words == ("goals", "match", "moon", "orbit")
    expected = {
        "train": ([[0, 0, 1, 2]], [4]),  # the second post has no words: only numbers and a stop word
        "validation": ([[2, 1, 0, 0]], [6]),
        "test": ([[1, 0, 0, 1], [0, 0, 1, 0]], [4, 6]),  # of words of train
    }
    for part, (counts, labels) in expected.items():
        np.testing.assert_array_equal(getattr(splits, part).images, counts)
        np.testing.assert_array_equal(getattr(splits, part).labels, labels)
        assert getattr(splits, part).images.dtype == np.uint16


def test_newsgroups_that_cannot_be_had_name_the_ways_out(monkeypatch):
    asked = []

    def fetch(part, download_if_missing):
        asked.append(download_if_missing)
        raise OSError("20Newsgroups dataset not found")

    def offline(host):
        raise OSError(f"no network to {host}")

    newsgroups(monkeypatch, fetch)
    monkeypatch.setattr(sources, "_require_network", offline)
    with pytest.raises(data.DataNotPreparedError) as error:
        data.load("20newsgroups")
    assert asked == [False]  # it looked into the cache, and did not try to download for minutes
    assert "\n" not in str(error.value)
    for part in ("no network to", "(1)", "(2) set SCIKIT_LEARN_DATA", "(3)", "--data PATH.npz"):
        assert part in str(error.value)


def test_batches_are_counts_as_they_are():
    batches, steps = data.training_batches(DOCUMENTS, "counts", batch_size=50, seed=0)
    drawn = np.concatenate([batch.numpy() for batch in batches.take(steps)])
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(np.sort(drawn, axis=0), np.sort(DOCUMENTS, axis=0))
    np.testing.assert_array_equal(data.transform_once(DOCUMENTS, "counts"), DOCUMENTS)


@pytest.mark.parametrize(
    ("values", "transform", "message"),
    [
        (np.zeros((5, 4, 3, 1), "uint8"), "counts", "'counts' must be given counts: images are [N, H, W, C]"),
        (DOCUMENTS, "dynamic_binarization", "'dynamic_binarization' must be given images: images are [N, H, W, C]"),
        (DOCUMENTS / 2, "counts", "`documents` must hold whole numbers of at least 0"),
    ],
)
def test_images_and_documents_are_told_apart(values, transform, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.transform_once(values, transform)


# Training, exports and pictures.


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A small config of documents in a file of their own, as overrides of vae_digits."""
    path = tmp_path_factory.mktemp("documents") / "documents.npz"
    words = [f"word{index}" for index in range(WORDS)]
    write(path, train=DOCUMENTS[:100], validation=DOCUMENTS[100:150], test=DOCUMENTS[150:], words=words)
    args = {"image_shape": [WORDS], "latent_dim": 2, "hidden_units": [8], "likelihood": "poisson"}
    model = {f"model.args.{key}": value for key, value in args.items()}
    train = {"train.epochs": 2, "train.batch_size": 20, "train.jit_compile": False}
    return {"data.name": str(path), "data.transform": "counts", **model, **train}


def test_a_run_on_documents_has_no_pictures(settings, tmp_path):
    training.train("vae_digits", directory=tmp_path / "run", overrides=settings, verbose=0)
    files = {"config.json", "state.npz", "log.csv", "best.weights.h5", "last.weights.h5", "words.txt", "tensorboard"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["name"] == settings["data.name"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.args.image_shape": [13]}, "`training counts` must have shape [batch, 13]. Received: [1, 12]"),
        ({"model.args.likelihood": "bernoulli"}, "`transform` must be one for a model of images. Received: 'counts'"),
        ({"data.transform": "unit_interval"}, "`transform` 'unit_interval' must be given images"),
        ({"data.name": "digits"}, "`transform` 'counts' must be given counts"),
        (
            {"data.name": "digits", "data.transform": "unit_interval", "model.args.image_shape": [8, 8, 1]},
            "`transform` must be one for a model of counts. Received: 'unit_interval'",
        ),
    ],
)
def test_a_config_that_mixes_images_and_documents_fails_before_it_leaves_a_trace(
    settings, tmp_path, overrides, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        training.train("vae_digits", directory=tmp_path / "run", overrides={**settings, **overrides}, verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return exporting.export(trained, tmp_path_factory.mktemp("export"), "documents")


def test_export_takes_counts_and_equals_keras(trained, exported):
    signatures = tf.saved_model.load(str(exported.version)).signatures
    assert set(signatures) == {"encode", "decode", "sample", "score", "serving_default"}
    counts, z = tf.constant(DOCUMENTS[:9], tf.float32), tf.constant([[0.5, -1.0]])
    np.testing.assert_allclose(signatures["encode"](counts=counts)["z"], trained.encode(counts), atol=1e-5)
    np.testing.assert_allclose(signatures["decode"](z=z)["counts"], trained.decode(z), rtol=1e-5)
    assert signatures["sample"](seed=tf.range(3))["counts"].shape == (3, WORDS)
    bound = signatures["score"](counts=counts, seed=tf.range(9))["elbo"]
    assert np.mean(bound) == pytest.approx(trained.evaluate(DOCUMENTS, verbose=0, return_dict=True)["elbo"], abs=3)
    card = json.loads((exported.version / "assets" / "model_card.json").read_text())
    assert card["image_range"] == {"float32": [0, None]}


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_export_refuses_what_is_no_count(exported, value):
    score = tf.saved_model.load(str(exported.version)).signatures["score"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be (whole numbers of at least 0|finite)"):
        score(counts=tf.fill([1, WORDS], np.float32(value)), seed=tf.zeros([1], tf.int32))


def test_lite_equals_keras(trained, exported):
    from ai_edge_litert.interpreter import Interpreter

    lite = Interpreter(str(exported.lite["float32"]))
    counts = DOCUMENTS[:3].astype("float32")
    z = lite.get_signature_runner("encode")(counts=counts)["z"]
    np.testing.assert_allclose(z, trained.encode(counts), atol=1e-5)
    np.testing.assert_allclose(lite.get_signature_runner("decode")(z=z)["counts"], trained.decode(z), rtol=1e-4)


def test_codes_are_drawn_and_pictures_refused(trained):
    assert plots.latents(trained, DOCUMENTS, TOPICS).axes
    assert plots.information(trained, DOCUMENTS).axes
    for draw in (plots.samples, lambda model: plots.reconstructions(model, DOCUMENTS), plots.manifold):
        with pytest.raises(ValueError, match="`model` must be a model of images. Received: VAE of counts"):
            draw(trained)


def test_topics_are_the_words_whose_rates_grow_most():
    """A decoder whose log rates are linear in z: its weights in order."""
    model = make()
    weights = np.random.default_rng(0).normal(size=(2, WORDS)).astype("float32")
    model.decode = lambda z: tf.exp(z @ weights - 3.0)
    words = [f"word{index}" for index in range(WORDS)]
    found = evaluation.topics(model, words, num_words=4)
    assert found == [[words[v] for v in np.argsort(-row)[:4]] for row in weights]


def test_topics_of_no_documents_are_refused(trained, make_tiny):
    with pytest.raises(ValueError, match="`model` must be a model of counts. Received: VAE of images"):
        evaluation.topics(make_tiny("vae"), ["a"])
    with pytest.raises(ValueError, match="`words` must hold one word per count, 12. Received: 1"):
        evaluation.topics(trained, ["a"])


# The command line.


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run of an epoch on a file of documents of other words than the entry's, by --data: its working folder."""
    folder = tmp_path_factory.mktemp("cli")
    shutil.copy(settings["data.name"], folder / "documents.npz")
    small = ["--set", "model.args.hidden_units=[8]", "--set", "model.args.latent_dim=3", "--set", "train.epochs=1"]
    options = ["--data", "documents.npz", "--dir", "run", *small, "--set", "train.batch_size=20"]
    result = vaezoo("train", "vae_poisson_20news", *options, "--set", "train.jit_compile=false", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "run: best.weights.h5, last.weights.h5, log.csv, words.txt, tensorboard"
    return folder


def test_a_run_takes_the_number_of_words_and_remembers_the_file(run):
    config = json.loads((run / "run" / "config.json").read_text())
    assert config["model"]["args"]["image_shape"] == [WORDS]
    assert config["data"]["name"] == str(run / "documents.npz")


def test_evaluate_prints_the_perplexity(run):
    result = vaezoo("evaluate", "run", "--num-samples", 5, "--json", "figures.json", cwd=run)
    assert result.returncode == 0, result.stderr
    figures = json.loads((run / "figures.json").read_text())
    assert 1 < figures["perplexity"] < figures["elbo_perplexity"]
    assert f"{figures['perplexity']:.4f}" in result.stdout


def test_topics_prints_words_of_the_file_for_each_unit(run):
    result = vaezoo("topics", "run", "--num-words", 3, "--data", "documents.npz", cwd=run)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(len(row) == 4 and row[1].startswith("word") for row in rows)


@pytest.mark.slow
def test_latents_of_documents_are_drawn_and_samples_refused(run):
    assert vaezoo("latents", "run", "-o", "latents.png", cwd=run).stdout.strip() == "latents.png"
    refused = vaezoo("sample", "run", cwd=run)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "vaezoo: `model` must be a model of images. Received: VAE of counts"


# The weights that are shipped, and their words.


ENTRY = "stein_poisson_20news"


def test_the_words_of_an_entry_are_those_that_its_weights_count():
    settings = config.read(ENTRY)
    words = loading.words(ENTRY, settings)
    assert [len(words)] == [len(set(words))] == settings.model.args["image_shape"]
    assert loading.words(ENTRY, dataclasses.replace(settings, weights=None)) is None
    assert loading.words("vae_digits", config.read("vae_digits")) is None


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda words: words[1:], "1994 words for 1995"),
        (lambda words: (words[0], words[2], words[1], *words[3:]), "'one' for 'write' at 1"),
    ],
    ids=["fewer", "another order"],
)
def test_documents_of_other_words_than_the_weights_count_are_refused(change, received):
    settings = config.read(ENTRY)
    words = loading.words(ENTRY, settings)
    loading.check_words(ENTRY, settings, words)
    loading.check_words(ENTRY, settings, None)  # arrays that do not say
    with pytest.raises(ValueError, match=f"`data` must count the words of {ENTRY}, .*Received: {received}$"):
        loading.check_words(ENTRY, settings, change(words))


def test_topics_of_an_entry_need_no_data(tmp_path):
    result = vaezoo("topics", ENTRY, "--num-words", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert len(rows) == 50
    assert set().union(*(row[1:] for row in rows)) <= set(loading.words(ENTRY, config.read(ENTRY)))


def test_a_run_knows_its_words_without_its_data_and_refuses_others(settings, tmp_path):
    overrides = {key: value for key, value in settings.items() if key != "data.name"} | {"train.epochs": 1}

    def train(words, **options):
        splits = data.Splits.from_arrays(DOCUMENTS[:100], DOCUMENTS[100:150], words=words)
        training.train(
            "vae_digits", directory=tmp_path / "run", splits=splits, overrides=overrides, verbose=0, **options
        )

    words = [f"word {index}" for index in range(WORDS)]
    train(words)
    assert loading.words(tmp_path / "run", config.read(tmp_path / "run")) == tuple(words)
    result = vaezoo("topics", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "word 11" in result.stdout
    exported = vaezoo("export", "run", "exports", "--serving", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    (card,) = tmp_path.glob("exports/vae_digits/1/assets/model_card.json")
    assert json.loads(card.read_text())["card"]["words"] == words
    train(None, resume=True)  # arrays that do not say
    with pytest.raises(ValueError, match="`data` must count the words of vae_digits.*'word 11' for 'word 0' at 0"):
        train(words[::-1], resume=True)


def test_in_python_too_a_model_counts_as_many_words_as_it_is_given(tmp_path):
    splits = data.Splits.from_arrays(DOCUMENTS[:100], DOCUMENTS[100:150])
    small = {"model.args.hidden_units": [8], "model.args.latent_dim": 3, "train.epochs": 1, "train.batch_size": 20}
    overrides = {**small, "train.jit_compile": False}
    model = training.train(ENTRY, directory=tmp_path / "run", splits=splits, overrides=overrides, verbose=0)
    assert model.example_shape == (WORDS,)


def test_an_entry_is_trained_on_as_many_words_as_its_own_data_have(settings, tmp_path):
    small = ["model.args.hidden_units=[8]", "model.args.latent_dim=3", "train.epochs=1", "train.batch_size=20"]
    sets = [f"data.name={settings['data.name']}", "train.jit_compile=false", *small]
    options = [part for value in sets for part in ("--set", value)]
    result = vaezoo("train", ENTRY, "--dir", "run", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert config.read(tmp_path / "run").model.args["image_shape"] == [WORDS]


def test_evaluating_an_entry_on_other_words_is_one_line(run):
    result = vaezoo("evaluate", ENTRY, "--data", "documents.npz", cwd=run)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(f"Received: {WORDS} words for 1995")
