"""Exports that run without vaezoo: a SavedModel, which TensorFlow Serving loads, and LiteRT files."""

import contextlib
import json
import pathlib
import re
from typing import NamedTuple

from vaezoo import files
from vaezoo.base.endpoints import in_float32
from vaezoo.serving import lite, saved_model


class Export(NamedTuple):
    """The paths of an export.

    Attributes:
        version: folder of the SavedModel.
        lite: dict, precision -> LiteRT file; empty for a model without a signature for LiteRT.
        report: JSON file about the LiteRT files, see `lite_report`; None if there are none.
    """

    version: pathlib.Path
    lite: dict
    report: pathlib.Path | None


def export(model, directory, name, card=None):
    """Writes a model as `directory/name/<version>/`, and `name.<precision>.tflite` and `name.lite.json` beside it.

    The version is one above the highest there is, and TensorFlow Serving serves the highest. An existing version is
    never touched; the LiteRT files are replaced. All are written aside and renamed once all are complete. They compute
    in float32, whatever the model's dtype policy.

    Args:
        model: a `vaezoo.base.LatentVariableModel`, compiled or not.
        directory: path of a folder, which is made if need be; files of other models may be in it.
        name: what the model is served as: letters, digits, "_", "-", "." and blanks.
        card: dict of JSON values that goes into the SavedModel's `assets/model_card.json`, e.g. the model's config.

    Returns:
        `Export`.

    Raises:
        ValueError: `name` is not as described.
        OSError: the folder cannot be written to.
    """
    model, directory = in_float32(model), pathlib.Path(directory)
    with new_version(directory, name) as version, contextlib.ExitStack() as stack:
        precisions = lite.PRECISIONS if lite.signatures(model) else ()
        paths = {precision: directory / f"{name}.{precision}.tflite" for precision in precisions}
        report = directory / f"{name}.lite.json" if precisions else None
        aside = {path: stack.enter_context(files.atomic(path)) for path in (*paths.values(), report) if path}
        saved_model.save(model, stack.enter_context(files.atomic(version)), name, card)
        if report is not None:
            converted = lite.converted(model)
            for precision, path in paths.items():
                aside[path].write_bytes(converted[precision])
            text = json.dumps(lite.lite_report(model, converted), indent=2) + "\n"
            aside[report].write_text(text, "utf-8")
    return Export(version, paths, report)


@contextlib.contextmanager
def new_version(directory, name):
    """Yields the path of the next version of a model; meanwhile no other process exports into that folder.

    Raises:
        ValueError: `name` is no name for a model, see `export`.
    """
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError(f"`name` must be letters, digits, '_', '-', '.' and blanks, no path. Received: {name!r}")
    with files.locked(directory) as directory:
        for folder in (directory, directory / name):
            files.sweep(folder)
        versions = [int(path.name) for path in (directory / name).glob("*") if path.name.isdecimal()]
        yield directory / name / str(max(versions, default=0) + 1)
