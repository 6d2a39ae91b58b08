"""Trains on one device and on two replicas, and writes what came of it. Run by test_strategies.py.

Two logical CPUs have to be asked for before TensorFlow starts, hence a process of its own. Each line of its input names
a part, and what it is of, e.g. "same_steps iwae"; the results are written to FOLDER/<line>.json.

Usage: python replicas.py FOLDER
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from vaezoo.models.adgm import ADGM
from vaezoo.models.as_vae import ASVAE
from vaezoo.models.conv_vae import ConvVAE
from vaezoo.models.resnet_vae import ResNetVAE
from vaezoo.models.stein_vae import SemiSupervisedSteinVAE
from vaezoo.models.vae import VAE
from vaezoo.objectives import ELBO, IWAE, FreeBits, SemiSupervisedELBO, Stein
from vaezoo.replicas import replica_id
from vaezoo.zoo import callbacks, training, workers

IMAGE_SHAPE, LATENT_DIM, REPLICAS = (4, 4, 1), 3, 2
NUMBER, BATCH_SIZE = 36, 7  # batches of 7 = 4 + 3, and a last one of 1, of which the second replica gets nothing


class HandedIn:
    """Takes the noise of an example from a table, by the example's place in the global batch."""

    def noise(self, num_samples, batch_size, *, seed):
        shape = super().noise(1, 1, seed=[0, 0]).shape[2:]
        return self._from_table((num_samples, 8, *shape), batch_size)

    def _from_table(self, shape, batch_size):
        table = np.random.default_rng(1).standard_normal(shape).astype("float32")
        first, context = 0, tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:  # there is none where layers are set from data
            replica = context.replica_id_in_sync_group
            sizes = context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.one_hot(replica, REPLICAS) * tf.cast(batch_size, tf.float32)
            )
            first = tf.cast(tf.cumsum(sizes, exclusive=True)[replica], tf.int32)
        return tf.constant(table)[:, first : first + batch_size]


class HandedInVAE(HandedIn, VAE):
    """The VAE."""


class HandedInConvVAE(HandedIn, ConvVAE):
    """The convolutional VAE."""


class HandedInResNetVAE(HandedIn, ResNetVAE):
    """The ResNet VAE."""


class HandedInADGM(HandedIn, ADGM):
    """The auxiliary deep generative model."""


class HandedInSteinVAE(HandedIn, SemiSupervisedSteinVAE):
    """The Stein VAE with classes."""


class HandedInASVAE(HandedIn, ASVAE):
    """The adversarial symmetric VAE."""

    def game_noise(self, batch_size, *, seed):
        return self._from_table((1, 8, super().game_noise(1, seed=[0, 0]).shape[1]), batch_size)[0]


class RecordingVAE(VAE):
    """Keeps what each replica drew last."""

    drawn = ()

    def noise(self, num_samples, batch_size, *, seed):
        noise = super().noise(num_samples, batch_size, seed=seed)
        for variable in self.drawn:
            variable.assign(noise)
        return noise


class BreakingVAE(VAE):
    """Its KL becomes NaN in the third step, on the second replica only."""

    def terms(self, x, noise, *, analytic_kl=False):
        terms = super().terms(x, noise, analytic_kl=analytic_kl)
        breaks = (self.optimizer.iterations == 2) & (replica_id() == 1)
        return terms._replace(kl=tf.where(breaks, np.nan, terms.kl))


def images(number):
    # The first half of each batch is dark and the second one bright, so that the replicas' KLs are unlike.
    grey = np.random.default_rng(2).random((number, *IMAGE_SHAPE))
    bright = (np.arange(number) % 8 >= 4)[:, None, None, None]
    return (0.3 * grey + 0.7 * bright).astype("float32")


def make(cls, objective, strategy=None, **compiled):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = cls(IMAGE_SHAPE, LATENT_DIM, hidden_units=(8,))
        # Not Adam, which makes whole steps of gradients that are 0 but for rounding.
        model.compile(keras.optimizers.SGD(1e-2), objective, seed=3, **compiled)
    return model


def free_bits_between():
    """Free bits that one replica's KL exceeds at the start, while the mean KL of the whole batch does not."""
    model = make(HandedInVAE, None)
    kl = tf.reduce_mean(model.terms(images(8), model.noise(1, 8, seed=None)).kl, axis=[0, 2]).numpy()
    low, high = sorted([kl[:4].mean(), kl[4:].mean()])
    return FreeBits(nats=float(0.25 * low + 0.75 * high))


def same_steps(strategy, objective):
    """Fits the same data with the same noise on one device and on two replicas."""
    results = {}
    objective = {"elbo": ELBO, "iwae": lambda: IWAE(3), "free_bits": free_bits_between}[objective]()
    for replicas, scope in {"one": None, "two": strategy}.items():
        model, x = make(HandedInVAE, objective, scope), images(NUMBER)
        history = model.fit(x, batch_size=BATCH_SIZE, epochs=2, shuffle=False, verbose=0).history
        results[replicas] = {
            "weights": flat(model),
            "history": history,
            "measured": model.evaluate(x, batch_size=BATCH_SIZE, return_dict=True, verbose=0),
        }
    return results


SYSTEMS = {
    "conv_vae": (HandedInConvVAE, dict(filters=(3, 4), hidden_units=6, posterior="iaf", latent_dim=3)),
    "resnet_vae": (HandedInResNetVAE, dict(num_blocks=2, filters=4, latent_filters=2, flow_hidden_layers=1)),
}


def flows_and_averages(strategy, system):
    """Fits a system with flows on one device and on two replicas: layers set from data, weights averaged."""
    results = {}
    cls, settings = SYSTEMS[system]
    for replicas, scope in {"one": None, "two": strategy}.items():
        keras.utils.set_random_seed(0)
        with (scope or tf.distribute.get_strategy()).scope():
            model = cls(IMAGE_SHAPE, **settings)
            # Not Adam or Adamax, which make whole steps of gradients that are 0 but for rounding.
            optimizer = keras.optimizers.SGD(3e-6, use_ema=True, ema_momentum=0.9)
            model.compile(optimizer, FreeBits(0.1))
        x = images(8 * 3)
        with (scope or tf.distribute.get_strategy()).scope():
            model.initialize(x[:8])
        found = {"initial": flat(model)}
        averages = callbacks.MeasureAverages()
        model.fit(x, validation_data=x, batch_size=7, epochs=2, shuffle=False, verbose=0, callbacks=[averages])
        found["averages"] = flat(model)  # with which `fit` ends
        copies = [scope.experimental_local_results(weight.value) for weight in model.trainable_weights] if scope else []
        found["spread"] = float(max((np.abs(one - other).max() for one, other in copies), default=0.0))
        results[replicas] = found
    return results


def semi_supervised(strategy):
    """Fits labelled and unlabelled images, with batch normalisation, on one device and on two replicas."""
    results = {}
    x = images(24)
    batches = tf.data.Dataset.from_tensor_slices(((0.5 * x, np.arange(24) % 3), x)).batch(8)
    for replicas, scope in {"one": None, "two": strategy}.items():
        keras.utils.set_random_seed(0)
        with (scope or tf.distribute.get_strategy()).scope():
            sizes = dict(latent_dim=3, auxiliary_dim=2, num_classes=3, hidden_units=(8, 7), batch_normalization=True)
            model = HandedInADGM(IMAGE_SHAPE, **sizes)
            model.compile(keras.optimizers.SGD(1e-2), SemiSupervisedELBO(alpha=3.0))
        history = model.fit(batches, epochs=2, shuffle=False, verbose=0).history
        results[replicas] = {"weights": flat(model), "history": history}
    return results


def stein(strategy):
    """Moves particles of z and of weights, with labels and without, on one device and on two replicas."""
    results = {}
    x = images(22)  # a last batch of 1, of which the second replica gets nothing
    batches = tf.data.Dataset.from_tensor_slices(((0.5 * x, np.arange(22) % 3), x)).batch(7)
    for replicas, scope in {"one": None, "two": strategy}.items():
        keras.utils.set_random_seed(0)
        with (scope or tf.distribute.get_strategy()).scope():
            sizes = dict(latent_dim=3, num_classes=3, hidden_units=(8, 7), weight_particles=2)
            model = HandedInSteinVAE(IMAGE_SHAPE, **sizes)
            model.compile(keras.optimizers.SGD(1e-3), Stein(3, num_examples=24))
        history = model.fit(batches, epochs=2, shuffle=False, verbose=0).history
        results[replicas] = {"weights": flat(model), "history": history}
    return results


def game(strategy):
    """Plays the game of two optimizers, with batch normalisation, on one device and on two replicas."""
    results = {}
    for replicas, scope in {"one": None, "two": strategy}.items():
        keras.utils.set_random_seed(0)
        with (scope or tf.distribute.get_strategy()).scope():
            model = HandedInASVAE(IMAGE_SHAPE, latent_dim=3, filters=(3,), hidden_units=6)
            model.compile(keras.optimizers.SGD(1e-3))
        before = flat(model)
        history = model.fit(images(NUMBER), batch_size=BATCH_SIZE, epochs=2, shuffle=False, verbose=0).history
        results[replicas] = {
            "weights": flat(model),
            "history": history,
            "moves": np.subtract(flat(model), before).tolist(),
        }
    return results


def own_noise(strategy):
    """Returns what the two replicas drew in two steps of training and in one of testing, [3, 2, S * B * D]."""
    model = make(RecordingVAE, ELBO(), strategy)
    with strategy.scope():
        model.drawn = [
            tf.Variable(
                tf.zeros([1, 4, LATENT_DIM]), synchronization=tf.VariableSynchronization.ON_READ, trainable=False
            )
        ]
    draws = []
    for run in (model.fit, model.fit, model.evaluate):
        run(images(8), batch_size=8, verbose=0)
        draws.append([value.numpy().ravel().tolist() for value in strategy.experimental_local_results(model.drawn[0])])
    return draws


def broken_replica(strategy):
    """Returns the message with which a run ends whose KL breaks on one replica of two."""
    model = make(BreakingVAE, ELBO(), strategy)
    try:
        model.fit(images(40), batch_size=8, verbose=0, callbacks=[callbacks.StopOnNaN()])
    except FloatingPointError as error:
        return str(error)
    return "no error"


def kind(strategy):
    return [type(strategy).__name__, strategy.num_replicas_in_sync]


def zoo_entry(strategy):
    """Trains a zoo entry for 2 epochs, once at a stretch, and once in two parts."""

    def train(name, epochs, **settings):
        overrides = {"model.args.hidden_units": [8], "train.epochs": epochs}
        return training.train("vae_digits", directory=FOLDER / name, overrides=overrides, verbose=0, **settings)

    whole = train("whole", 2)
    train("parts", 1)
    return {"whole": flat(whole), "parts": flat(train("parts", 2, resume=True))}


def flat(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()]).astype(float).tolist()


PARTS = (kind, same_steps, flows_and_averages, semi_supervised, stein, game, own_noise, broken_replica, zoo_entry)


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
    strategy = workers.default_strategy()
    parts = {part.__name__: part for part in PARTS}
    for line in map(str.strip, sys.stdin):
        name, *of = line.split()
        (FOLDER / f"{line}.json").write_text(json.dumps(parts[name](strategy, *of)), "utf-8")
        print("done", flush=True)


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    main()
