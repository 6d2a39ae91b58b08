"""The library's files import only files above them."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "vaezoo"
# In the direction data flows. A file may import those before it; `models` is one layer.
ORDER = [
    *("checks", "files", "numerics", "domains", "replicas", "stein", "objectives", "distributions", "masks", "layers"),
    "flows",
    *("posteriors", "likelihoods", "networks", "metrics", "base", "semi_supervised", "models"),
    *(
        "classifiers",
        "frey_face",
        "data",
        "config",
        "zoo",
        "annealing",
        "evaluation",
        "image_classifier",
        "sample_scores",
        "plots",
        "callbacks",
        "exporting",
        "serving",
        "training",
        "cli",
    ),
    "__init__",
    "__main__",
]


def layer(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Names of the vaezoo files that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vaezoo":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaezoo."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vaezoo."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_files_above(path):
    own = layer(path)
    for name in imported(path):
        if name != own:
            assert ORDER.index(name) < ORDER.index(own), f"{own} imports {name}"


def test_every_file_has_a_layer():
    assert {layer(path) for path in PACKAGE.rglob("*.py")} == set(ORDER)
