"""The library's rooms: imports only go down, and no circle inside a room."""

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "vaezoo"
# From the ground up: a room may import those before it, and itself. The ground is made of files.
ROOMS = [
    "ground",
    "inference",
    "layers",
    "data",
    "base",
    "models",
    "evaluation",
    "zoo",
    "serving",
    "cli",
    "front door",
]
GROUND = {"backend", "checks", "domains", "files", "noise", "numerics", "replicas"}
FRONT_DOOR = {"__init__", "__main__", "likelihoods", "objectives", "plots", "posteriors"}  # public names
MOST_LINES = {"base": 250}  # 400 elsewhere
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The room of a file in the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1:
        return parts[0]
    return "ground" if parts[0] in GROUND else "front door" if parts[0] in FRONT_DOOR else parts[0]


def imported(path):
    """The files of the package that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vaezoo":
            for alias in node.names:
                yield from found(*node.module.split(".")[1:], alias.name) or found(*node.module.split(".")[1:])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vaezoo."):
                    yield from found(*alias.name.split(".")[1:])


def found(*parts):
    """The file of a module, in a list, which is empty if there is none."""
    path = PACKAGE.joinpath(*parts)
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if parts and file.is_file()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    own = ROOMS.index(room(path))
    for other in imported(path):
        assert ROOMS.index(room(other)) <= own, f"{path.relative_to(PACKAGE)} imports {other.relative_to(PACKAGE)}"


def test_no_circle_inside_a_room():
    graph = {path: {other for other in imported(path) if room(other) == room(path)} for path in FILES}
    for path in FILES:  # a room's `__init__` only gathers names, and is read before any of its files
        if path.name == "__init__.py":
            graph[path] -= {path}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)


def test_every_file_has_a_room():
    assert {room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) < MOST_LINES.get(room(path), 400)
