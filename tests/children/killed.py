"""Trains once to the end, and once killed again and again. Run by test_resume.py.

Usage: python killed.py FOLDER KILLS

Each training runs in a process of its own, forked from this one, which has imported TensorFlow but never used it: so
twenty trainings need not import it twenty times.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

from vaezoo import callbacks, cli, data, training  # noqa: F401  imported here for the children

EPOCHS, MOST_EPOCHS_PER_LIFE = 70, 2
SETTINGS = ["model.args.hidden_units=[16]", f"train.epochs={EPOCHS}", "train.jit_compile=false"]


def start(directory, *more):
    """Starts `vaezoo train` in a child and returns its process id."""
    if pid := os.fork():
        return pid
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    sys.argv = ["vaezoo", "train", "vae_digits", "--dir", str(directory), *sets, *more]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    cli.main()
    os._exit(0)


def epochs_of(directory):
    log = directory / "log.csv"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def wait_for(directory, epochs, seconds=600.0):
    """Waits until the run has so many epochs, or for so long."""
    end = time.monotonic() + seconds
    while epochs_of(directory) < epochs and time.monotonic() < end:
        time.sleep(0.002)


def main(folder, kills):
    began = time.monotonic()
    pid = start(folder / "whole")
    wait_for(folder / "whole", 1)
    first_epoch = time.monotonic() - began
    if os.waitpid(pid, 0)[1]:
        sys.exit("the uninterrupted run failed")
    an_epoch = (time.monotonic() - began - first_epoch) / EPOCHS

    rng, killed, progress = random.Random(0), folder / "killed", []
    for _ in range(kills):
        before, lived = epochs_of(killed), rng.randint(0, MOST_EPOCHS_PER_LIFE)
        pid = start(killed, "--resume")
        if lived:  # somewhere in or after the epoch that follows, its writes included
            wait_for(killed, before + lived)
            time.sleep(rng.uniform(0.0, an_epoch))
        else:  # somewhere on the way to the first one
            wait_for(killed, before + 1, rng.uniform(0.0, first_epoch))
        os.kill(pid, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            sys.exit("a run ended before it could be killed")
        progress.append(epochs_of(killed))
    if os.waitpid(start(killed, "--resume"), 0)[1]:
        sys.exit("the last run failed")
    (folder / "progress.json").write_text(json.dumps(progress))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
