"""README's code runs, and its figures are the cards'."""

import pathlib
import re

import numpy as np
import pytest

from vaezoo.zoo import config

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def block_with(text):
    """Returns the one block of Python that holds a text."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if text in block)
    return block


@pytest.mark.parametrize("name", [name for name in config.names() if config.read(name).weights])
def test_the_table_has_the_cards_figures(name):
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    for figure in re.findall(r"-?\d+\.\d+", config.read(name).weights.measured):
        assert figure in row


def test_a_model_of_the_users_own_trains():
    scope = {}
    exec(block_with("class MyVAE"), scope)
    model = scope["MyVAE"](latent_dim=3)
    model.compile("adam")
    images = np.random.default_rng(0).random((20, 28, 28, 1)).astype("float32")
    losses = model.fit(images, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.log_likelihood(images, num_samples=3).shape == (20,)
    assert {signature.name for signature in model.export_signatures()} == {"encode", "decode", "sample", "score"}


@pytest.mark.slow
def test_the_first_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).random((200, 28, 28, 1)).astype("float32")
    block = block_with("vaezoo.train").replace(
        'vaezoo.train("vae_digits")', 'vaezoo.train("vae_digits", overrides=SHORT)'
    )
    exec(block, {"x_train": images, "x_val": images[:100], "SHORT": {"train.epochs": 1}})
    assert (tmp_path / "exports" / "mine" / "1" / "saved_model.pb").exists()
    assert (tmp_path / "runs" / "vae_digits" / "best.weights.h5").exists()


@pytest.mark.slow
def test_the_block_with_labels_runs(real_data):
    real_data("mnist")
    block = block_with("semi_supervised").replace("epochs=20", "steps_per_epoch=2")
    scope = {}
    exec(f"import vaezoo\n{block}", scope)
    assert len(scope["splits"].indices) == 100
    assert scope["model"].predict_proba(scope["splits"].test.images[:10]).shape == (10, 10)


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from vaezoo.cli import main

    commands = get_command(main.app).commands
    shell = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    used = {line.split()[1] for block in shell for line in block.splitlines() if line.startswith("vaezoo ")}
    assert used
    assert used <= set(commands)
