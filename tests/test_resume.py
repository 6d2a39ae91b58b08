"""A run that is killed and resumed ends with the weights of one that never was, bit for bit."""

import json
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest

from vaezoo import training

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


@pytest.mark.slow
def test_killed_at_20_random_moments_and_resumed_each_time(tmp_path):
    subprocess.run([sys.executable, CHILD, tmp_path, str(KILLS)], check=True, timeout=600)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert len(progress) == KILLS
    assert len(set(progress)) > 3, "the kills must fall into different epochs"
    assert_same(state_of(whole), state_of(killed))
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same(weights_of(whole / name), weights_of(killed / name))
    assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()
    assert not list(tmp_path.rglob(".writing-*"))
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    assert {path.name for path in (whole / "images").iterdir()} == {path.name for path in (killed / "images").iterdir()}


def test_more_epochs_go_on_where_a_run_ended(tmp_path):
    train(tmp_path / "whole", 4)
    train(tmp_path / "run", 2)
    model = train(tmp_path / "run", 4, resume=True)
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))
    np.testing.assert_array_equal(model.get_weights()[0], state_of(tmp_path / "run")["variable_0"])


def test_a_finished_run_resumes_to_itself(tmp_path):
    train(tmp_path, 2)
    before = state_of(tmp_path)
    train(tmp_path, 2, resume=True)
    assert_same(before, state_of(tmp_path))


def test_an_unused_folder_may_be_resumed(tmp_path):
    """A run may have been killed before its first state."""
    train(tmp_path / "run", 1, resume=True)
    assert (tmp_path / "run" / "state.npz").exists()


def test_what_was_lost_after_the_state_was_written_is_mended(tmp_path):
    train(tmp_path, 2)
    kept = {name: weights_of(tmp_path / name) for name in ("last.weights.h5", "best.weights.h5")}
    log = (tmp_path / "log.csv").read_text()
    for name in (*kept, "log.csv"):
        (tmp_path / name).unlink()
    (tmp_path / ".writing-abc").mkdir()
    train(tmp_path, 2, resume=True)
    assert (tmp_path / "log.csv").read_text() == log
    for name, arrays in kept.items():
        assert_same(arrays, weights_of(tmp_path / name))
    assert not (tmp_path / ".writing-abc").exists()


def test_a_used_folder_is_refused(tmp_path):
    train(tmp_path, 1)
    before = state_of(tmp_path)
    with pytest.raises(FileExistsError, match="`directory` must not hold a run, unless it is to be resumed"):
        train(tmp_path, 1)
    assert_same(before, state_of(tmp_path))


def test_another_config_is_refused_with_what_differs(tmp_path):
    train(tmp_path, 1)
    with pytest.raises(
        ValueError,
        match=r"same config.*differs in: objective\.args\.analytic_kl \(was True, is False\), train\.batch_size",
    ) as error:
        training.train(
            "vae_digits",
            directory=tmp_path,
            resume=True,
            overrides={**SMALL, "train.epochs": 2, "train.batch_size": 32, "objective.args.analytic_kl": False},
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_state_is_one_line(tmp_path, damage):
    train(tmp_path, 1)
    path = tmp_path / "state.npz"
    content = {"truncated": path.read_bytes()[:1000], "empty": b"", "text": b"not a state"}[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be the state of a run") as error:
        train(tmp_path, 2, resume=True)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("jit_compile", [False, True])
def test_two_runs_are_the_same_bit_for_bit(tmp_path, jit_compile):
    for name in ("one", "other"):
        training.train(
            "vae_digits",
            directory=tmp_path / name,
            overrides={"train.epochs": 3, "train.jit_compile": jit_compile},
            verbose=0,
        )
    assert_same(state_of(tmp_path / "one"), state_of(tmp_path / "other"))


def test_another_seed_is_another_run(tmp_path):
    for seed in (0, 1):
        training.train(
            "vae_digits",
            directory=tmp_path / str(seed),
            overrides={**SMALL, "train.epochs": 1, "train.seed": seed},
            verbose=0,
        )
    assert not np.array_equal(state_of(tmp_path / "0")["variable_0"], state_of(tmp_path / "1")["variable_0"])
