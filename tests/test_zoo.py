"""Loading by name: shipped weights, fetched ones, and weights that are damaged."""

import dataclasses
import pathlib
import random
import shutil

import numpy as np
import pytest

import vaezoo
from vaezoo import files, zoo
from vaezoo.zoo import config, loading

SHIPPED = [name for name in config.names() if config.read(name).weights]


@pytest.fixture
def weights_file(tmp_path):
    path = tmp_path / "digits.weights.h5"
    zoo.load("vae_digits", weights=None).save_weights(path)
    return path


@pytest.fixture
def fetched_entry(weights_file, tmp_path, monkeypatch):
    """An entry whose weights come from a url."""
    monkeypatch.setenv("VAEZOO_CACHE", str(tmp_path / "cache"))
    weights = config.Weights(
        sha256=files.sha256(weights_file), command="", duration="", measured="", url=weights_file.as_uri()
    )
    return dataclasses.replace(config.read("vae_digits"), weights=weights)


def test_the_foundations_entries_are_there_and_ship_weights():
    names = {"vae_digits", "vae_mnist", "vae_mnist_2d", "vae_mnist_fullcov", "iwae_mnist", "vae_frey"}
    assert names <= set(vaezoo.list_models())
    assert names <= set(SHIPPED)


@pytest.mark.rest
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_whole_and_loadable(name):
    weights = config.read(name).weights
    path = config.config_dir() / weights.file
    assert path.stat().st_size < 12_000_000
    assert files.sha256(path) == weights.sha256
    model = vaezoo.load(name)
    assert model.compiled
    fresh = vaezoo.load(name, weights=None)
    for ours, initial in zip(model.trainable_weights, fresh.trainable_weights, strict=True):
        assert not np.array_equal(ours, initial), ours.path


def test_fresh_weights_follow_the_configs_seed():
    one, same = (loading.build(config.read("vae_digits")) for _ in range(2))
    other = loading.build(config.read("vae_digits", {"train.seed": 1}))
    np.testing.assert_array_equal(one.get_weights()[0], same.get_weights()[0])
    assert not np.array_equal(one.get_weights()[0], other.get_weights()[0])


def test_loading_leaves_the_callers_generators_alone():
    numpy_state = np.random.get_state  # of the legacy generator, which is the one that Keras would seed
    before = random.getstate(), numpy_state()[1].tolist()
    vaezoo.load("vae_digits", weights=None)
    assert (random.getstate(), numpy_state()[1].tolist()) == before


def test_half_precision_is_an_override():
    assert vaezoo.load("vae_digits", weights=None, dtype="mixed_bfloat16").dtype_policy.name == "mixed_bfloat16"


def test_a_folder_called_like_an_entry_does_not_shadow_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae_digits").mkdir()
    (tmp_path / "vae_digits" / config.RUN_CONFIG).write_text("{}")
    assert config.read("vae_digits").num_params > 0
    assert config.is_run("./vae_digits")
    assert config.is_run(pathlib.Path("vae_digits"))


def test_overrides_reach_the_constructor():
    assert vaezoo.load("vae_digits", weights=None, latent_dim=3).latent_dim == 3
    with pytest.raises(ValueError, match="`model.args of VAE` must be one of: .* Did you mean 'latent_dim'"):
        vaezoo.load("vae_digits", weights=None, latent_dims=3)


def test_overrides_that_change_shapes_need_weights_of_their_own(tmp_path):
    message = "`weights` must be of a model with these arguments: .*; add weights=None. Received: "
    with pytest.raises(ValueError, match=message) as error:
        vaezoo.load("vae_digits", latent_dim=3)
    assert "\n" not in str(error.value)
    zoo.load("vae_digits", weights=None, latent_dim=3).save_weights(tmp_path / "m.weights.h5")
    assert vaezoo.load("vae_digits", tmp_path / "m.weights.h5", latent_dim=3).latent_dim == 3


def test_names_are_filtered_by_a_pattern():
    assert vaezoo.list_models("*_3?news") == []
    assert vaezoo.list_models("*20news") == ["stein_poisson_20news", "vae_poisson_20news"]
    assert vaezoo.list_models("*") == vaezoo.list_models()
    with pytest.raises(ValueError, match=r"`pattern` must be a string such as '\*mnist\*'. Received: 3"):
        vaezoo.list_models(3)


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean 'vae_digits'"):
        vaezoo.load("vae_digit")


def test_weights_of_a_path(weights_file):
    model = vaezoo.load("vae_digits", weights=weights_file)
    np.testing.assert_array_equal(model.get_weights()[0], zoo.load("vae_digits", weights=None).get_weights()[0])


def test_an_entry_without_weights_names_the_way_out(monkeypatch):
    without = dataclasses.replace(config.read("vae_digits"), weights=None)
    monkeypatch.setattr(config, "read", lambda *_: without)
    with pytest.raises(ValueError, match="`weights` must be None or a path: 'vae_digits' ships none"):
        vaezoo.load("vae_digits")


def test_fetched_weights_are_cached_and_work_offline(fetched_entry, weights_file):
    path = loading.pretrained("vae_digits", fetched_entry)
    assert path.parent == loading.cache_dir()
    weights_file.unlink()  # the network is gone
    assert loading.pretrained("vae_digits", fetched_entry) == path
    assert [file.name for file in loading.cache_dir().iterdir()] == [path.name]


def test_a_damaged_download_never_enters_the_cache(fetched_entry, weights_file):
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must have SHA-256 .* the download is damaged"):
        loading.pretrained("vae_digits", fetched_entry)
    assert not loading.cache_dir().exists()


def test_an_unreachable_url_is_one_line(fetched_entry, weights_file):
    weights_file.unlink()
    with pytest.raises(OSError, match="`weights` must be reachable or cached.*use weights=None") as error:
        loading.pretrained("vae_digits", fetched_entry)
    assert "\n" not in str(error.value)


def test_a_damaged_cache_is_mended(fetched_entry):
    path = loading.pretrained("vae_digits", fetched_entry)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert loading.pretrained("vae_digits", fetched_entry).read_bytes() == whole


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "of another model", "missing", "a folder"])
def test_bad_weight_files_are_one_line(weights_file, damage):
    if damage == "truncated":
        weights_file.write_bytes(weights_file.read_bytes()[:2000])
    elif damage == "empty":
        weights_file.write_bytes(b"")
    elif damage == "text":
        weights_file.write_text("not weights")
    elif damage == "of another model":
        zoo.load("vae_digits", weights=None, latent_dim=3).save_weights(weights_file)
    else:
        weights_file.unlink()
    if damage == "a folder":
        weights_file.mkdir()
    with pytest.raises((ValueError, OSError), match="`weights` must be") as error:
        vaezoo.load("vae_digits", weights=weights_file)
    assert "\n" not in str(error.value)
    assert str(weights_file) in str(error.value)


def write_half(path):
    with files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_atomic_writes_are_whole_or_nothing(tmp_path):
    path = tmp_path / "sub" / "file.txt"
    with pytest.raises(RuntimeError):
        write_half(path)
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with files.atomic(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_the_wheel_finds_its_configs(tmp_path, monkeypatch):
    """In a wheel the configs lie inside the package, in a checkout beside it."""
    package = tmp_path / "vaezoo"
    shutil.copytree(config.config_dir(), package / "zoo_configs")
    monkeypatch.setattr(config, "__file__", str(package / "zoo" / "config.py"))
    assert config.config_dir() == pathlib.Path(package / "zoo_configs")
    assert "vae_digits" in config.names()
