"""Kills `vaezoo export --serving` again and again while another process loads what is there. Run by test_serving.py.

Every export runs in a process of its own, forked from this one, which has imported TensorFlow but never used it. The
other process does what a server does: it reads models.config, finds the versions listed there and the newest one, and
loads them.

Usage: python exporter.py FOLDER KILLS
Prints one JSON object: how many versions came about, how many kills hit a running export, how many looks the other
process took, and what was broken.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from vaezoo.base import LatentVariableModel
from vaezoo.cli import main as cli
from vaezoo.serving import bundle, exporting, saved_model  # noqa: F401  imported here for the children


class Exporter:
    """`vaezoo export vae_digits FOLDER --serving` in a child, with one signature and its forms, for speed."""

    def __init__(self, folder):
        self.began = time.monotonic()
        self.reports, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(pipe)
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signatures, save = LatentVariableModel.export_signatures, saved_model.save

        def reported(*args):
            os.write(pipe, b"s")
            return save(*args)

        LatentVariableModel.export_signatures = lambda self: signatures(self)[:1]
        saved_model.save = reported
        sys.argv = ["vaezoo", "export", "vae_digits", str(folder), "--serving"]
        try:
            cli.main()
        finally:
            os._exit(0)

    def wait_for_save(self):
        os.read(self.reports, 1)

    def end(self, kill):
        """Ends it, by force or by waiting; returns whether it was killed while it ran."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.reports)
        return os.WIFSIGNALED(status)


def look(folder, loaded):
    """Loads, as a server would, what has not been loaded yet; raises if anything is not whole."""
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), config)
    (model,) = config.model_config_list.config
    there = [int(path.name) for path in (folder / model.name).iterdir() if path.name.isdecimal()]
    listed = list(model.model_version_policy.specific.versions)
    assert set(listed) <= set(there), (listed, there)
    assert set(model.version_labels.values()) <= set(listed)
    assert (folder / "batching.config").read_text() == bundle.BATCHING
    assert (folder / "monitoring.config").read_text() == bundle.MONITORING
    assert (folder / "compose.yaml").read_text().endswith("restart: unless-stopped\n")
    for version in {*listed, max(there)} - loaded:
        path = folder / model.name / str(version)
        images = tf.zeros([2, 8, 8, 1])
        assert tf.saved_model.load(str(path)).signatures["encode"](images=images)["z"].shape == (2, 10)
        json.loads((path / "assets" / "model_card.json").read_text())
        records = list(tf.data.TFRecordDataset([str(path / bundle.WARMUP)]).as_numpy_iterator())
        assert len(records) == 4 * 6, len(records)
        for record in records:
            prediction_log_pb2.PredictionLog.FromString(record)
        loaded.add(version)


def main(folder, kills):
    folder = pathlib.Path(folder)
    first = Exporter(folder)
    first.wait_for_save()
    before_save = time.monotonic() - first.began
    first.end(kill=False)
    duration = time.monotonic() - first.began

    answers, pipe = os.pipe()
    looker = os.fork()
    if not looker:
        stop, looks, loaded, broken = [], 0, set(), []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
        while not stop:
            try:
                look(folder, loaded)
            except Exception as error:
                broken.append(repr(error))
            looks += 1
            time.sleep(0.01)
        os.write(pipe, json.dumps([looks, sorted(loaded), broken[:3]]).encode())
        os._exit(0)

    chance, hits, attempts = random.Random(0), 0, 0
    while hits < kills and attempts < 4 * kills:  # one that comes after the export has ended is not a kill
        exporter = Exporter(folder)
        if attempts % 2:  # every other kill is aimed at the writing, which uniform ones rarely hit
            exporter.wait_for_save()
            time.sleep(chance.uniform(0.0, duration - before_save))
        else:
            time.sleep(chance.uniform(0.0, duration))
        hits += exporter.end(kill=True)
        attempts += 1
    Exporter(folder).end(kill=False)
    look(folder, set())
    os.kill(looker, signal.SIGTERM)
    looks, loaded, broken = json.loads(os.read(answers, 100_000))
    print(json.dumps({"hits": hits, "looks": looks, "loaded": loaded, "broken": broken}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
