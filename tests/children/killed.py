"""Trains once to the end, and once killed again and again. Run by test_resume.py.

Each training runs in a process of its own, forked from this one, which has imported TensorFlow but never used it: so
twenty trainings need not import it twenty times, which would take minutes.

Usage: python killed.py FOLDER KILLS
"""

import functools
import json
import os
import pathlib
import random
import signal
import sys
import time

import keras

from vaezoo import files
from vaezoo.cli import main as cli
from vaezoo.zoo import training

EPOCHS = 60
SETTINGS = {"model.args.hidden_units": "[16]", "train.epochs": EPOCHS, "train.jit_compile": "false"}


class Report(keras.callbacks.Callback):
    """Tells the parent when the steps of an epoch are done; the measurement and the writing follow."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe, self.epoch = pipe, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        os.write(self.pipe, bytes([self.epoch]))


class Run:
    """`vaezoo train` in a child."""

    def __init__(self, directory, *more):
        self.began = time.monotonic()
        self.reports, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(pipe)
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        training.train = functools.partial(training.train, callbacks=[Report(pipe)])
        sys.argv = ["vaezoo", "train", "vae_digits", "--dir", str(directory), *more]
        sys.argv += [argument for key, value in SETTINGS.items() for argument in ("--set", f"{key}={value}")]
        cli.main()
        os._exit(0)

    def wait_for(self, epoch):
        """Waits until the steps of this epoch, or of a later one, are done."""
        while (report := os.read(self.reports, 1)) and report[0] < epoch:
            pass

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        if not os.WIFSIGNALED(self.end()):
            sys.exit("a run ended before it could be killed")

    def end(self):
        """Returns how the child ended, when it has."""
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.reports)
        return status


def writing(folder):
    """Tells whether a file is being written in the folder, or was when its process was killed."""
    if not folder.exists():  # killed before it was made
        return False
    return any(name.startswith(files.PREFIX) for name in os.listdir(folder))


def main(folder, kills):
    run = Run(folder / "whole")
    run.wait_for(0)
    first = time.monotonic()
    run.wait_for(EPOCHS - 1)
    start_up, period = first - run.began, (time.monotonic() - first) / (EPOCHS - 1)
    if run.end():
        sys.exit("the uninterrupted run failed")

    # Half of the kills fall into the start of a process, which restores the state and mends the files; a quarter are
    # spread evenly over the epochs; and a quarter over the first writes after such moments.
    rng, struck = random.Random(0), []
    moments = iter(sorted(rng.uniform(0, EPOCHS - 5) for _ in range(kills // 2)))
    for kill in range(kills):
        run = Run(folder / "killed", "--resume")
        if kill % 2:
            moment = next(moments)
            run.wait_for(int(moment))
            time.sleep(moment % 1 * period)
            while kill % 4 == 1 and not writing(folder / "killed"):
                pass
        else:
            time.sleep(rng.uniform(0, start_up))
        run.kill()
        log = folder / "killed" / "log.csv"
        epochs = len(log.read_text().splitlines()) - 1 if log.exists() else 0
        struck.append({"epochs": epochs, "writing": writing(folder / "killed")})
    if Run(folder / "killed", "--resume").end():
        sys.exit("the last run failed")
    (folder / "struck.json").write_text(json.dumps(struck))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
