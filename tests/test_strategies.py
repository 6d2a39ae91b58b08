"""Several replicas: of one process on two logical CPUs, and of two processes on the loopback address."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaezoo import data
from vaezoo.models.vae import VAE

CHILDREN = pathlib.Path(__file__).parent / "children"
TIMEOUT = 400  # seconds, on a machine that has other things to do

pytestmark = pytest.mark.slow


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, CHILDREN / script, *map(str, arguments)], env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Returns a function that returns what a part of children/replicas.py found, and runs it once.

    One process runs all parts, unless one of them ends it.
    """
    folder, processes = tmp_path_factory.mktemp("replicas"), []

    @functools.cache
    def run(part):
        if not processes or processes[-1].poll() is not None:
            command = [sys.executable, CHILDREN / "replicas.py", folder]
            # With oneDNN, TensorFlow 2.21's convolution of an empty batch has its input's channels on some processors,
            # and the second replica gets no rows of the last batch.
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen(command, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}, **pipes))
        process = processes[-1]
        deadline = threading.Timer(TIMEOUT, process.kill)
        deadline.start()
        process.stdin.write(f"{part}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        deadline.cancel()
        if not answer:
            process.wait(TIMEOUT)
        assert answer == "done\n"
        return json.loads((folder / f"{part}.json").read_text())

    yield run
    for process in processes:
        process.stdin.close()
        process.wait(TIMEOUT)


each_objective = pytest.mark.parametrize(
    "objective", ["elbo", pytest.param("iwae", marks=pytest.mark.rest), "free_bits"]
)


@each_objective
def test_two_replicas_take_the_steps_of_one(replicas, objective):
    one, two = replicas(f"same_steps {objective}").values()
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=1e-6)


@each_objective
@pytest.mark.parametrize("logs", ["history", "measured"])
def test_two_replicas_log_what_one_logs(replicas, objective, logs):
    one, two = (found[logs] for found in replicas(f"same_steps {objective}").values())
    assert one.keys() == two.keys() == {"loss", "elbo", "log_likelihood", "kl"}
    for name in one:
        # In float32 a KL near 0, the difference of log-densities of order 1, has no more digits than these.
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("system", ["semi_supervised", pytest.param("stein", marks=pytest.mark.rest)])
def test_two_replicas_learn_from_labels_as_one_does(replicas, system):
    one, two = replicas(system).values()
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=1e-5)  # batch normalisation's averages, too
    assert one["history"].keys() == two["history"].keys() >= {"cross_entropy"}
    for name in one["history"]:
        np.testing.assert_allclose(two["history"][name], one["history"][name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_two_replicas_play_the_game_of_one(replicas):
    one, two = replicas("game").values()
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=1e-6)  # of both players, and averages
    assert np.max(np.abs(one["moves"])) > 1e-3
    assert one["history"].keys() == two["history"].keys() >= {"discriminator_loss"}
    for name in one["history"]:
        np.testing.assert_allclose(two["history"][name], one["history"][name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.rest
@pytest.mark.parametrize("system", ["conv_vae", "resnet_vae"])
def test_two_replicas_set_layers_from_data_and_average_weights_as_one_does(replicas, system):
    one, two = replicas(f"flows_and_averages {system}").values()
    assert two["initial"] == one["initial"]
    np.testing.assert_allclose(two["averages"], one["averages"], rtol=0, atol=1e-6)
    assert two["spread"] == 0.0
    assert np.abs(np.subtract(one["averages"], one["initial"])).max() > 1e-4


def test_replicas_draw_noise_of_their_own(replicas):
    """In two steps of training and in one of testing no number is drawn twice, on whichever replica."""
    draws = np.array(replicas("own_noise"))
    assert draws.shape[:2] == (3, 2)
    assert len(np.unique(draws)) == draws.size


def test_a_term_that_breaks_on_one_replica_is_named(replicas):
    assert replicas("broken_replica").startswith("`kl` must be finite. Received: NaN or infinity in step 3 of epoch 1")


def test_training_takes_all_devices(replicas):
    assert replicas("kind") == ["MirroredStrategy", 2]


def test_a_run_on_two_replicas_resumes_bit_for_bit(replicas):
    assert replicas("zoo_entry")["whole"] == replicas("zoo_entry")["parts"]


# Two processes.


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def train_command(directory, epochs, *more):
    sets = ["--set", "model.args.hidden_units=[8]", "--set", f"train.epochs={epochs}"]
    return ["train", "vae_digits", "--dir", str(directory), *sets, *more]


def game_command(directory):
    """An epoch of AS-VAE, both players of which have an optimizer, on digits."""
    model = {"image_shape": [8, 8, 1], "filters": [4, 5], "hidden_units": 8, "latent_dim": 3}
    settings = {"data.name": '"digits"', "train.epochs": 1, **{f"model.args.{key}": model[key] for key in model}}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["train", "as_vae_mnist", "--dir", str(directory), *sets]


def run_workers(folder, commands_of_workers):
    """Runs as many workers as there are lists of commands; returns what each of them found."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(len(commands_of_workers))]}
    results, processes = [], []
    for index, commands in enumerate(commands_of_workers):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        results.append(folder / f"worker_{index}.json")
        processes.append(start("worker.py", results[-1], json.dumps(commands), TF_CONFIG=json.dumps(task)))
    try:
        assert [process.wait(TIMEOUT) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()
    return [json.loads(path.read_text()) for path in results]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two workers train for 2 epochs at a stretch and in two parts, try to train in a used folder, and play a game."""
    folder = tmp_path_factory.mktemp("workers")
    commands = [
        [
            train_command(whole, 2),
            train_command(folder / "parts", 1),
            train_command(folder / "parts", 2, "--resume"),
            train_command(folder / "parts", 2),
            game_command(folder / "game"),
        ]
        for whole in (folder / "whole", folder / "of_the_second_worker")
    ]
    return folder, run_workers(folder, commands)


@pytest.mark.rest
def test_two_workers_end_with_the_same_weights(workers):
    _, (chief, other) = workers
    for run in range(3):
        assert chief[run]["status"] == other[run]["status"] == 0
        assert len(chief[run]["weights"]) > 0
        assert chief[run]["weights"] == other[run]["weights"]


@pytest.mark.rest
def test_two_workers_play_one_game(workers):
    _, (chief, other) = workers
    assert chief[4]["status"] == other[4]["status"] == 0
    assert np.isfinite(chief[4]["weights"]).all()
    assert chief[4]["weights"] == other[4]["weights"]  # of both players, and averages


def test_two_workers_take_the_steps_of_two_replicas(workers, replicas):
    """The noise is that of the replica's number, and the batch is cut in the same two."""
    np.testing.assert_allclose(workers[1][0][0]["weights"], replicas("zoo_entry")["whole"], rtol=0, atol=1e-6)


def test_a_run_of_two_workers_resumes_bit_for_bit(workers):
    _, (chief, _) = workers
    assert chief[0]["weights"] == chief[2]["weights"]
    assert chief[0]["weights"] != chief[1]["weights"]


def test_the_chief_alone_writes(workers):
    folder, _ = workers
    assert {path.name for path in folder.iterdir()} == {"whole", "parts", "game", "worker_0.json", "worker_1.json"}
    names = {"config.json", "state.npz", "last.weights.h5", "best.weights.h5", "log.csv", "images", "tensorboard"}
    assert {path.name for path in (folder / "whole").iterdir()} == names


def test_what_the_chief_refuses_ends_both_workers(workers):
    _, (chief, other) = workers
    assert chief[3]["status"] == other[3]["status"] == 1
    assert [line.partition(" Received")[0] for line in chief[3]["stderr"]] == [
        "vaezoo: `directory` must not hold a run, unless it is to be resumed (--resume)."
    ]
    assert [line.partition(" Received")[0] for line in other[3]["stderr"]] == [
        "vaezoo: the other workers must be able to start."
    ]


def test_a_cluster_of_one_worker_trains_like_any_device(tmp_path):
    (results,) = run_workers(tmp_path, [[train_command(tmp_path / "run", 1)]])
    assert results[0]["status"] == 0
    assert (tmp_path / "run" / "best.weights.h5").exists()


# Half precision.


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_with_densities_in_float32(policy):
    x = data.transform_once(data.load("digits").train.images[:256], "dynamic_binarization")
    model = VAE((8, 8, 1), latent_dim=3, hidden_units=(32,), dtype=policy)
    model.compile(keras.optimizers.Adam(5e-3))
    assert model.decoder.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    assert model.decoder(tf.zeros([1, 3])).dtype == policy.removeprefix("mixed_")
    for analytic_kl in (True, False):
        terms = model.terms(x[:4], model.noise(2, 4, seed=[0, 0]), analytic_kl=analytic_kl)
        assert terms.log_lik.dtype == terms.kl.dtype == tf.float32
    losses = model.fit(x, batch_size=64, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1.0
