"""One worker of several: runs `vaezoo` once per list of arguments. Run by test_strategies.py.

Usage: TF_CONFIG=... python worker.py RESULTS.json '[["train", ...], ...]'
"""

import contextlib
import io
import json
import pathlib
import sys

import numpy as np

from vaezoo.cli import main
from vaezoo.zoo import training

trained = []
train = training.train
training.train = lambda *args, **kwargs: trained.append(train(*args, **kwargs))


def run(arguments):
    """Returns the command's exit status, what it printed to stderr, and the weights that it ended with."""
    sys.argv, status, stderr = ["vaezoo", *arguments], None, io.StringIO()
    trained.clear()
    with contextlib.redirect_stderr(stderr):
        try:
            main.main()
        except SystemExit as error:
            status = error.code
    weights = [weight.ravel() for model in trained for weight in model.get_weights()]
    return {
        "status": status,
        "stderr": [line for line in stderr.getvalue().splitlines() if line.startswith("vaezoo:")],
        "weights": np.concatenate(weights).tolist() if weights else [],
    }


if __name__ == "__main__":
    path, commands = sys.argv[1:]
    pathlib.Path(path).write_text(json.dumps([run(command) for command in json.loads(commands)]), "utf-8")
