"""What a training step costs against the number of classes: summed over all of them, and from two of them.

    python benchmarks/class_cost.py

An ADGM 784-500-500 with a and z of 100, 100 unlabelled and 100 labelled binary 28x28 images a step. The contestants
take turns; printed is the median over the rounds of each one's time against that of 5 classes, summed over, and the
largest resident memory of a process that takes such steps only.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from vaezoo.models import ADGM
from vaezoo.objectives import SemiSupervisedELBO

CLASSES, ROUNDS, STEPS = (5, 10, 20, 40), 7, 5


def make_step(num_classes, enumerate_classes):
    """Returns a function that takes one step."""
    model = ADGM((28, 28, 1), num_classes=num_classes, batch_normalization=True)
    model.compile("adam", SemiSupervisedELBO(alpha=1.0, enumerate_classes=enumerate_classes))
    x = tf.constant(np.random.default_rng(0).integers(2, size=(100, 28, 28, 1)).astype("float32"))
    data = (x, tf.range(100) % num_classes), x
    step = tf.function(lambda: model.train_step(data)["loss"])
    step()
    return step


def peak_memory(num_classes, enumerate_classes):
    """Returns the largest resident memory, MB, of a process of its own."""
    command = [sys.executable, __file__, str(num_classes), str(int(enumerate_classes))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main():
    """Measures and prints."""
    contestants = {(number, flag): make_step(number, flag) for number in CLASSES for flag in (True, False)}
    rounds = []
    for _ in range(ROUNDS):
        seconds = {}
        for key, step in contestants.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            seconds[key] = (time.perf_counter() - start) / STEPS
        rounds.append({key: value / seconds[CLASSES[0], True] for key, value in seconds.items()})
    print("classes  summed over  from two   peak memory, MB: summed over, from two")
    for number in CLASSES:
        ratios = [statistics.median(each[number, flag] for each in rounds) for flag in (True, False)]
        memory = [peak_memory(number, flag) for flag in (True, False)]
        print(f"{number:7}  {ratios[0]:11.2f}  {ratios[1]:8.2f}   {memory[0]:27} {memory[1]:9}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one_step = make_step(int(sys.argv[1]), bool(int(sys.argv[2])))
        for _ in range(STEPS):
            one_step()
        # Of this program; `resource.getrusage` would count the process that it was forked from. Linux only.
        (peak,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        print(int(peak.split()[1]) // 1024)
    else:
        main()
