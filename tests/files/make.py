"""Makes the files in this folder, which `test_compatibility.py` reads.

Run it with the code of a6f206f on the path: python tests/files/make.py FOLDER_OF_THAT_CODE/tests
"""

import json
import pathlib
import shutil
import sys
import tempfile

import keras
import numpy as np

from vaezoo import data, training
from vaezoo.models import MODELS, VAE

HERE = pathlib.Path(__file__).parent
SETTINGS = {"model.args.hidden_units": [3], "model.args.latent_dim": 2, "train.batch_size": 400}
SETTINGS |= {"train.jit_compile": False, "train.epochs": 1}


def systems(tiny):
    """Every system's arguments, and the shapes of its weights in the order in which a run's state holds them."""
    return {
        name: {"args": args, "shapes": [list(weight.shape) for weight in MODELS[name](**args).weights]}
        for name, args in tiny.items()
    }


def main(tests):
    """`tests` is the folder of that code's tests, whose `conftest` has tiny arguments for every system."""
    sys.path.insert(0, tests)
    import conftest

    keras.utils.set_random_seed(0)
    model = VAE((4, 4, 1), latent_dim=2, hidden_units=(3,), posterior="full_covariance_gaussian")
    model.compile(keras.optimizers.Adam(1e-2), seed=3)
    images = np.random.default_rng(0).random((12, 4, 4, 1), dtype="float32")
    model.fit(images, batch_size=4, shuffle=False, verbose=0)
    model.save(HERE / "model.keras")
    expected = {
        "codes": np.asarray(model.encode(images)).tolist(),
        "elbo": model.evaluate(images, verbose=0, return_dict=True)["elbo"],
    }
    model.fit(images, batch_size=4, shuffle=False, verbose=0)
    expected["codes_after_one_more_epoch"] = np.asarray(model.encode(images)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        training.train("vae_digits", directory=run, overrides=SETTINGS, verbose=0)
        for name in ("config.json", "state.npz", "log.csv", "best.weights.h5", "last.weights.h5"):
            (HERE / "run").mkdir(exist_ok=True)
            shutil.copy(run / name, HERE / "run" / name)
        training.train("vae_digits", directory=run, overrides={**SETTINGS, "train.epochs": 2}, resume=True, verbose=0)
        shutil.copy(run / "state.npz", HERE / "resumed.npz")
    images = data.load("digits").test.images[:5] / np.float32(255)
    from vaezoo import zoo

    expected["codes_of_the_run"] = np.asarray(zoo.load(HERE / "run").encode(images)).tolist()
    expected["systems"] = systems(conftest.TINY)
    (HERE / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(sys.argv[1])
