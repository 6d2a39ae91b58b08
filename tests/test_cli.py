"""The command line, as a user types it."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import vaezoo
from PIL import Image

from vaezoo import data

SMALL = ["--set", "model.args.hidden_units=[16]", "--set", "model.args.latent_dim=2", "--set", "train.epochs=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of vae_digits: its working folder."""
    folder = tmp_path_factory.mktemp("cli")
    result = vaezoo("train", "vae_digits", *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_help_and_names_answer_without_tensorflow():
    script = (
        "import sys; sys.argv = ['vaezoo', *sys.argv[1:]]\nfrom vaezoo.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    for arguments in (["--help"], ["list"], ["info", "vae_digits"], ["info", "vae_digit"], ["train", "vae_digit"]):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)


def test_list_names_every_entry_in_a_process_of_its_own():
    from vaezoo.zoo import config

    command = [sys.executable, "-m", "vaezoo", "list"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in text for name in config.names())


def test_info_shows_the_card():
    text = vaezoo("info", "iwae_mnist").stdout
    for part in ("Burda", "85.54", "licence", "sha256", "departures"):
        assert part in text


def test_training_leaves_a_whole_run(run):
    folder = run / "runs" / "vae_digits"
    names = {path.name for path in folder.iterdir()}
    files = {"config.json", "state.npz", "log.csv", "best.weights.h5", "last.weights.h5"}
    assert names == files | {"images", "tensorboard"}
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_elbo"]) > float(rows[0]["val_elbo"])
    assert {path.name for path in (folder / "images").iterdir()} == {"epoch_0001.png", "epoch_0002.png"}
    assert json.loads((folder / "config.json").read_text())["model"]["args"]["latent_dim"] == 2


@pytest.mark.rest
@pytest.mark.skipif(not shutil.which("script"), reason="script(1), which makes a terminal, is not installed")
def test_on_a_terminal_training_is_one_line_with_the_bounds(tmp_path):
    command = f"{sys.executable} -m vaezoo train vae_digits {' '.join(SMALL)}"
    shown = subprocess.run(["script", "-qec", command, "/dev/null"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout
    assert "2/2" in shown.stdout
    assert "val_elbo -" in shown.stdout
    assert shown.stdout.rstrip().endswith("tensorboard")


def test_evaluate_writes_a_table_and_json(run):
    arguments = ["evaluate", "runs/vae_digits", "--num-samples", 5, "--limit", 30, "--json", "figures.json"]
    result = vaezoo(*arguments, cwd=run)
    assert result.returncode == 0, result.stderr
    figures = json.loads((run / "figures.json").read_text())
    assert figures["num_images"] == 30
    assert figures["num_samples"] == 5
    assert figures["log_likelihood"] >= figures["elbo"]
    assert f"{figures['elbo']:.4f}" in result.stdout


def test_evaluate_by_annealing(run):
    chains = ["--estimator", "ais", "--num-chains", 2, "--num-temperatures", 7]
    result = vaezoo("evaluate", "runs/vae_digits", *chains, "--limit", 3, "--json", "ais.json", cwd=run)
    assert result.returncode == 0, result.stderr
    figures = json.loads((run / "ais.json").read_text())
    assert (figures["num_images"], figures["num_chains"], figures["num_temperatures"]) == (3, 2, 7)
    assert 0 < figures["least_acceptance"] <= figures["acceptance"] <= 1


@pytest.mark.parametrize(("estimator", "option"), [("ais", "samples"), ("importance", "chains")])
def test_options_of_the_other_estimator_are_refused(run, estimator, option):
    result = vaezoo("evaluate", "runs/vae_digits", "--estimator", estimator, f"--num-{option}", 5, cwd=run)
    assert result.returncode == 1
    assert f"`--num-{option}` must be left out with --estimator {estimator}. Received: 5" in result.stderr


@pytest.mark.parametrize("command", ["sample", "reconstruct", "manifold", "latents", "information"])
def test_pictures(run, command):
    result = vaezoo(command, "runs/vae_digits", "-o", f"{command}.png", cwd=run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{command}.png"
    assert Image.open(run / f"{command}.png").size[0] > 100


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory):
    """A run of an epoch of a small SDGM of the embedded digits, with two dimensions of style: its working folder."""
    folder = tmp_path_factory.mktemp("classes")
    args = {"image_shape": [8, 8, 1], "hidden_units": [16], "latent_dim": 2, "auxiliary_dim": 3}
    settings = {"data.name": "digits", "train.epochs": 1, **{f"model.args.{key}": args[key] for key in args}}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    result = vaezoo("train", "sdgm_mnist100", *overrides, "--dir", "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize(
    "arguments", [["analogies"], ["auxiliary"], ["information"], ["manifold", "--label", 3], ["sample", "--label", 3]]
)
def test_pictures_of_a_model_with_classes(classes_run, arguments):
    result = vaezoo(*arguments, "run", cwd=classes_run)
    assert result.returncode == 0, result.stderr
    path = f"sdgm_mnist100-{arguments[0]}.png"
    assert result.stdout.strip() == path
    assert Image.open(classes_run / path).size[0] > 100


def test_labels_of_ones_own_data_train_and_measure_a_model_with_classes(classes_run):
    """The digits from a file of arrays have the figures of the digits, the error rate among them."""
    digits = data.load("digits")
    arrays = {"train": digits.train.images, "validation": digits.validation.images, "test": digits.test.images}
    for name, part in (("train", digits.train), ("validation", digits.validation), ("test", digits.test)):
        arrays[f"{name}_label"] = part.labels
    np.savez(classes_run / "own.npz", **arrays)
    result = vaezoo("evaluate", "run", "--data", "own.npz", "--num-samples", 1, "--json", "own.json", cwd=classes_run)
    assert result.returncode == 0, result.stderr
    result = vaezoo("evaluate", "run", "--num-samples", 1, "--json", "digits.json", cwd=classes_run)
    assert result.returncode == 0, result.stderr
    own, same = (json.loads((classes_run / f"{name}.json").read_text()) for name in ("own", "digits"))
    assert 0 < own["error_rate"] < 100
    assert {**own, "seconds": 0} == {**same, "seconds": 0}
    known = data.draw_labels(data.load(str(classes_run / "own.npz")), 20).known_labels
    assert (known >= 0).sum() == 20


LAYERS = "epoch,log_likelihood,kl_layer_01,kl_layer_02\n1,-9000.0,300.0,200.0\n2,-8000.0,400.0,500.0\n"


def test_layers_of_a_run_are_drawn_without_tensorflow(tmp_path):
    from vaezoo.zoo import config

    run = tmp_path / "runs" / "layered"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config.as_dict(config.read("iaf_cifar10"))))
    (run / "log.csv").write_text(LAYERS)
    script = (
        "import sys; sys.argv = ['vaezoo', 'layers', 'runs/layered']\nfrom vaezoo.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "iaf_cifar10-layers.png"
    assert Image.open(tmp_path / "iaf_cifar10-layers.png").size[0] > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "iaf_cifar10"], "`folder` must be the folder of a run. Received: iaf_cifar10"),
        (["layers", "runs/vae_digits"], "`history` must hold epochs of a model with layers of latents"),
        (["info", "vae_digit"], "vaezoo: `name` must be one of: "),
        (["train", "vae_digits", "--set", "train.epoch=3"], "Did you mean 'epochs'?"),
        (["train", "vae_digits", "--set", "epochs"], "`--set` must be KEY=VALUE"),
        (["train", "runs/vae_digits/config.json"], "`name` must be an entry, a .toml file or the folder of a run"),
        (["train", "vae_digits", *SMALL], "must not hold a run, unless it is to be resumed (--resume)"),
        (["train", "vae_digits", "--dir", "figures.json/x"], "figures.json"),
        (["sample", "vae_digits", "--weights", "nowhere.weights.h5"], "`weights` must be a file"),
        (["sample", "runs/vae_digits", "-o", "figures.json/x.png"], "figures.json"),
        (["sample", "runs/vae_digits", "--label", "1"], "`model` must be a model with classes"),
        (["analogies", "runs/vae_digits"], "`model` must be a model with classes"),
        (
            ["manifold", "vae_mnist", "--set", "model.args.latent_dim=3"],
            "`weights` must be of a model with these arguments",
        ),
        (["evaluate", "missing.toml"], "`name` must be a file, if it ends in .toml. Received: missing.toml"),
        (["evaluate", "runs/vae_digits", "--data", "a.npy"], "`--data` must be a file that ends in .npz"),
        (
            ["train", "vae_digits", "--dir", "x", "--data", "a.npz", "--set", "data.name=mnist"],
            "`--data` must be left out with --set data.name. Received: a.npz",
        ),
        (["evaluate", "runs/nope"], "`name` must be an entry, a .toml file or the folder of a run"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(run, arguments, message):
    (run / "figures.json").touch()
    before = sorted(run.rglob("*"))
    result = vaezoo(*arguments, cwd=run)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("vaezoo:")]
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert "Traceback" not in result.stderr
    assert sorted(run.rglob("*")) == before  # nothing half-written


def test_a_mistyped_command_gets_a_suggestion():
    result = vaezoo("trian", "vae_digits")
    assert result.returncode == 2
    assert "Did you mean 'train'" in result.stderr


@pytest.mark.slow
def test_classify_prints_the_error_of_each_draw_and_their_mean(run):
    digits = [
        "--set",
        "data.name=digits",
        "--set",
        "model.args.image_shape=[8,8,1]",
        "--set",
        "data.transform=unit_interval",
    ]
    result = vaezoo("train", "m1_mnist", *digits, *SMALL, "--dir", "m1", cwd=run)
    assert result.returncode == 0, result.stderr
    lines = vaezoo(
        "classify", "m1", "--classifier", "knn", "--labels", "50", "--draws", "2", cwd=run
    ).stdout.splitlines()
    errors = [float(line.split()[3]) for line in lines[:2]]
    assert all(0 < error < 100 for error in errors)
    assert float(lines[2].split("mean ")[1].split()[0]) == pytest.approx(sum(errors) / 2, abs=0.011)
    refused = vaezoo("classify", "runs/vae_digits", cwd=run)
    assert refused.returncode == 1
    assert "`name` must be an M1, a model of features. Received: vae_digits, a vae" in refused.stderr
