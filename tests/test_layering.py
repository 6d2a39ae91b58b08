"""The library's rooms: imports only go down, and no circle inside a room."""

import ast
import graphlib
import importlib
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


# Outside of these rooms nothing asks for the type of a model, or whether it has a name: what it lacks is None.
FREE = {"base", "models"}
SUBJECTS = {"model", "system", "objective"}


def classes_of_models():
    """The names of all classes that the rooms of models define."""
    trees = [ast.parse(path.read_text()) for path in FILES if room(path) in FREE]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def type_tests(source, classes):
    """The lines of a source that ask for the type of a model or objective, or for a name that it may have."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or len(node.args) < 2:
            continue
        subject, wanted = node.args[:2]
        if node.func.id in ("isinstance", "issubclass") and names_in(wanted) & classes:
            yield node.lineno
        if node.func.id in ("hasattr", "getattr") and last_name(subject) in SUBJECTS:
            yield node.lineno


def names_in(node):
    """The last parts of all names in an expression: `VAE` of `models.VAE`, and of tuples of such."""
    return {last_name(each) for each in ast.walk(node)} - {None}


def last_name(node):
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if room(path) not in FREE],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_no_type_tests_outside_the_models(path):
    assert not list(type_tests(path.read_text(), classes_of_models()))


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("isinstance(m, M1)", True),
        ("isinstance(m, (int, models.VAE))", True),
        ("hasattr(model, 'predict_proba')", True),
        ("getattr(self.model, 'auxiliary_dim', 0)", True),
        ("hasattr(objective, 'alpha')", True),
        ("isinstance(value, float)", False),
        ("getattr(module, name)", False),
        ("model.figures()", False),
    ],
)
def test_type_tests_are_found(line, is_one):
    assert bool(list(type_tests(line, classes_of_models()))) == is_one


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("plots", "evaluation.plots"),
        ("posteriors", "layers.posteriors"),
        ("likelihoods", "layers.likelihoods"),
        ("objectives", "objectives"),
        ("evaluation", "evaluation"),
        ("data", "data"),
    ],
)
def test_public_modules_show_public_names_only(name, source):
    module = importlib.import_module(f"vaezoo.{name}")
    shown = {each for each in dir(module) if not each.startswith("_")}
    files = {path.stem for path in FILES if path.parent.name == name}  # of a package, once they are imported
    assert shown - files == set(importlib.import_module(f"vaezoo.{source}").__all__) - files


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) < MOST_LINES.get(room(path), 400)
