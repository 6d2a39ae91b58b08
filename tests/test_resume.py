"""A run that is killed and resumed ends with the weights of one that never was, bit for bit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from conftest import vaezoo as command

from vaezoo import data, files, zoo
from vaezoo.zoo import config, run_folder, training

KILLS = 20
CHILD = pathlib.Path(__file__).parent / "children" / "killed.py"
SMALL = {"model.args.hidden_units": [8], "train.jit_compile": False}


def weights_of(path):
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def state_of(folder):
    with np.load(folder / "state.npz") as state:
        return dict(state)


def train(directory, epochs, **settings):
    return training.train(
        "vae_digits", directory=directory, overrides={**SMALL, "train.epochs": epochs}, verbose=0, **settings
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two epochs. Tests that do not refuse it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    train(folder, 2)
    return folder


@pytest.mark.slow
@pytest.mark.rest
def test_killed_at_20_random_moments_and_resumed_each_time(tmp_path):
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}  # where TensorFlow leaves files when it is killed
    subprocess.run([sys.executable, CHILD, tmp_path, str(KILLS)], check=True, timeout=600, env=temporary)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    struck = json.loads((tmp_path / "struck.json").read_text())
    assert len(struck) == KILLS
    assert len({kill["epochs"] for kill in struck}) > 5, "the kills must fall into different epochs"
    assert any(kill["writing"] for kill in struck), "some kills must fall into a write"
    assert_same(state_of(whole), state_of(killed))
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same(weights_of(whole / name), weights_of(killed / name))
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()
    assert not list(tmp_path.rglob(".writing-*"))
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    for picture in (whole / "images").iterdir():
        assert picture.read_bytes() == (killed / "images" / picture.name).read_bytes()


@pytest.mark.rest
@pytest.mark.parametrize(
    ("entry", "settings"),
    [
        ("iaf_mnist", {"filters": [3, 4], "hidden_units": 6}),
        ("iaf_cifar10", {"num_blocks": 2, "filters": 4, "latent_filters": 3}),
        ("stein_vae_mnist", {"latent_dim": 3, "hidden_units": [8]}),
        ("as_vae_mnist", {"filters": [3, 4], "hidden_units": 6, "latent_dim": 3}),
    ],
)
def test_flows_games_particles_and_averaged_weights_go_on_bit_for_bit(tmp_path, entry, settings):
    """Layers are set from data once, before the first step and never again; the averages of the weights come back."""
    overrides = {f"model.args.{key}": value for key, value in {**settings, "image_shape": [8, 8, 1]}.items()}
    overrides |= {"data.name": "digits", "train.batch_size": 300, "train.jit_compile": False}  # with XLA: below
    for directory, epochs in (("whole", 2), ("parts", 1), ("parts", 2)):
        model = training.train(
            entry,
            directory=tmp_path / directory,
            resume=True,
            overrides={**overrides, "train.epochs": epochs},
            verbose=0,
        )
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert_same(whole, parts)
    # What is measured and kept are the averages, if the optimizer has them; what goes on are the weights.
    kept = weights_of(tmp_path / "parts" / "last.weights.h5")
    averages = sorted(value.sum() for value in kept.values() if value.dtype != bool)
    raw = sorted(whole[f"variable_{i}"].sum() for i, w in enumerate(model.weights) if w.dtype != "bool")
    assert (averages != raw) == model.optimizer.use_ema
    returned = sorted(np.asarray(weight).sum() for weight in model.weights if weight.dtype != "bool")
    assert returned == averages


@pytest.mark.rest
def test_more_epochs_go_on_where_a_run_ended(tmp_path):
    """Compiled by XLA, as the entry is. The rates of the schedule and the order of the data go on, too."""
    settings = {"model.args.hidden_units": [8], "train.jit_compile": True}
    for directory, epochs in (("whole", 3), ("parts", 2), ("parts", 3)):
        overrides = {**settings, "train.epochs": epochs}
        training.train("vae_digits", directory=tmp_path / directory, resume=True, overrides=overrides, verbose=0)
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["train"]["epochs"] == 3


def test_a_finished_run_resumes_to_itself(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    model = train(tmp_path / "run", 2, resume=True)
    assert_same(state_of(finished), state_of(tmp_path / "run"))
    assert model.optimizer.iterations == 2 * (1297 // 64)
    for index, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, state_of(finished)[f"variable_{index}"])


def test_what_was_lost_after_the_state_was_written_is_mended(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("last.weights.h5", "best.weights.h5", "log.csv"):
        (run / name).unlink()
    for folder in (run, run / "images"):
        (folder / ".writing-abc").mkdir()
    train(run, 2, resume=True)
    assert (run / "log.csv").read_text() == (finished / "log.csv").read_text()
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same(weights_of(finished / name), weights_of(run / name))
    assert not list(run.rglob(".writing-*"))


def test_a_used_folder_is_refused(finished):
    before = (finished / "state.npz").read_bytes()
    with pytest.raises(FileExistsError, match=r"`directory` must not hold a run, unless it is to be resumed") as error:
        train(finished, 1)
    assert "\n" not in str(error.value)
    assert (finished / "state.npz").read_bytes() == before


def test_a_used_folder_called_like_an_entry_is_refused(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "vae_digits")
    monkeypatch.chdir(tmp_path)
    for directory in ("vae_digits", "./vae_digits", pathlib.Path("vae_digits")):
        with pytest.raises(FileExistsError, match="`directory` must not hold a run"):
            train(directory, 1)
    with pytest.raises(FileExistsError, match="`directory` must not hold a run"):
        training.train("./vae_digits", overrides={"train.epochs": 1})
    with pytest.raises(ValueError, match="`directory` must hold a run of the same config"):
        training.train("vae_digits", directory="vae_digits", resume=True, overrides={"train.seed": 7})
    assert_same(state_of(finished), state_of(tmp_path / "vae_digits"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, resume):
    """A second lock of one process is as good as one of another."""
    with files.locked(tmp_path / "run"):
        (tmp_path / "run" / f"{files.PREFIX}x").mkdir()  # what the other one is writing
        with pytest.raises(
            BlockingIOError, match="`directory` must not be one that another process writes to"
        ) as error:
            train(tmp_path / "run", 1, resume=resume)
        assert "\n" not in str(error.value)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {f"{files.PREFIX}x", files.LOCK}


def test_another_config_is_refused_with_what_differs(finished):
    overrides = {**SMALL, "train.epochs": 3, "train.batch_size": 32, "objective.args.analytic_kl": False}
    differences = r"objective\.args\.analytic_kl \(was True, is False\), train\.batch_size \(was 64, is 32\)$"
    with pytest.raises(ValueError, match=r"`directory` must hold a run of the same config.*" + differences) as error:
        training.train("vae_digits", directory=finished, resume=True, overrides=overrides)
    assert "\n" not in str(error.value)
    assert json.loads((finished / "config.json").read_text())["train"]["epochs"] == 2


def test_a_config_that_cannot_be_built_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match="latent_dim"):
        training.train("vae_digits", directory=tmp_path / "run", overrides={"model.args.latent_dim": 0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_state_is_one_line(finished, tmp_path, damage):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "state.npz"
    content = {"truncated": path.read_bytes()[:1000], "empty": b"", "text": b"not a state"}[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be the state of a run") as error:
        train(tmp_path / "run", 3, resume=True)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_another_seed_is_another_run(finished, tmp_path):
    overrides = {**SMALL, "train.epochs": 1, "train.seed": 1}
    training.train("vae_digits", directory=tmp_path, overrides=overrides, verbose=0)
    assert not np.array_equal(state_of(tmp_path)["variable_0"], state_of(finished)["variable_0"])


def test_a_config_takes_overrides_and_its_run_claims_no_figures(tmp_path):
    entry = config.read("vae_digits", SMALL)
    training.train(entry, directory=tmp_path, overrides={"train.epochs": 1}, verbose=0)
    run = config.read(tmp_path)
    assert run.train.epochs == 1
    assert run.weights is None
    assert run.num_params == zoo.load(tmp_path).count_params() < config.read("vae_digits").num_params
    assert run_folder.default_directory(tmp_path, run) == tmp_path


def test_a_run_on_arrays_says_so(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype="uint8")
    splits = data.Splits.from_arrays(images[:64], images[64:])
    train(tmp_path, 1, splits=splits)
    assert config.read(tmp_path).data.name == "arrays"
    train(tmp_path, 2, splits=splits, resume=True)
    with pytest.raises(ValueError, match="Received: 'arrays', which the caller had"):
        data.load("arrays")
    with pytest.raises(ValueError, match="`splits` must be a vaezoo.data.Splits"):
        train(tmp_path, 2, splits=(images, images))


def test_schedules_have_the_steps_of_the_data_that_are_given(tmp_path):
    """Twenty images a batch, of which there are four: the rate is 0 after 4 x 300 steps, not after vae_digits' 6000."""
    images = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), dtype="uint8")
    splits = data.Splits.from_arrays(images[:80], images[80:])
    overrides = {**SMALL, "train.epochs": 1, "train.batch_size": 20}
    model = training.train("vae_digits", directory=tmp_path, splits=splits, overrides=overrides, verbose=0)
    rate = model.optimizer.get_config()["learning_rate"]["config"]
    assert rate["decay_steps"] == 4 * 300
    run = config.read(tmp_path)
    assert run.data.train_size == 80
    loaded = zoo.load(tmp_path).optimizer.get_config()["learning_rate"]["config"]
    assert loaded == rate
    other = data.Splits.from_arrays(images[:60], images[60:])
    with pytest.raises(ValueError, match=r"data\.train_size \(was 80, is 60\)"):
        training.train("vae_digits", directory=tmp_path, splits=other, overrides=overrides, resume=True)


def test_data_that_have_moved_are_given_anew(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype="uint8")
    np.savez(tmp_path / "mine.npz", train=images[:64], validation=images[64:72], test=images[72:])
    overrides = {**SMALL, "train.epochs": 1, "data.name": str(tmp_path / "mine.npz")}
    training.train("vae_digits", directory=tmp_path / "run", overrides=overrides, verbose=0)
    (tmp_path / "mine.npz").rename(tmp_path / "moved.npz")
    refused = command("evaluate", tmp_path / "run", "--num-samples", 2)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("if it has moved: --data PATH.npz, or --set data.name=PATH.npz")
    assert len(refused.stderr.strip().splitlines()) == 1
    found = command("evaluate", tmp_path / "run", "--num-samples", 2, "--data", tmp_path / "moved.npz")
    assert found.returncode == 0, found.stderr


# The lock.

HOLDER = """
import sys, time
from vaezoo import files
with files.locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_and_leaves_no_file(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with (
            pytest.raises(BlockingIOError, match="`directory` must not be one that another"),
            files.locked(folder, wait=False),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in folder.iterdir()] == [files.LOCK]  # of the killed process, which locks nobody out
    with files.locked(folder, wait=False):
        pass
    assert not list(folder.iterdir())
    with files.locked(tmp_path / "new", wait=False):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()


def test_those_who_wait_for_a_lock_enter_one_by_one(tmp_path):
    """Each takes the file with it, and those who wait for it must not go in beside the one who makes a new one."""
    inside, most, turns = 0, 0, []

    def enter():
        nonlocal inside, most
        for _ in range(5):
            with files.locked(tmp_path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                turns.append(1)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, len(turns)) == (1, 20)
