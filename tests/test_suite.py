"""What `make test` runs, what it leaves to the rest, and what runs in one process."""

import types

import pytest
from conftest import group_of, how_it_trains, one_per_shape, pytest_collection_modifyitems, what_it_infers

from vaezoo.models import MODELS


def taken(parameters):
    return [parameter.values[0] for parameter in parameters if not parameter.marks]


@pytest.mark.parametrize("shape_of", [how_it_trains, what_it_infers])
def test_a_system_of_each_shape_is_taken_and_no_two(shape_of):
    parameters = one_per_shape(shape_of)
    shapes = [shape_of(system) for system in taken(parameters)]
    assert [parameter.values[0] for parameter in parameters] == list(MODELS)
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) == set(map(shape_of, MODELS))


def test_a_system_that_trains_in_its_own_way_is_taken(monkeypatch):
    class Other(MODELS["m1"]):
        def train_step(self, data):
            return super().train_step(data)

    assert "m1" not in taken(one_per_shape(how_it_trains))
    monkeypatch.setitem(MODELS, "m1", Other)
    assert "m1" in taken(one_per_shape(how_it_trains))


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/test_a.py::test_b", "tests/test_a.py"),
        ("tests/test_a.py::test_b[m2]", "tests/test_a.py::m2"),
        ("tests/test_a.py::test_b[True-m2-float32]", "tests/test_a.py::m2"),
        ("tests/test_a.py::test_b[vae, in half-int8]", "tests/test_a.py::vae, in half"),
        ("tests/test_a.py::test_b[vae_mnist]", "tests/test_a.py"),
    ],
)
def test_what_runs_in_one_process(nodeid, group):
    assert group_of(nodeid) == group


class Item:
    """A test, as far as shares see it."""

    def __init__(self, nodeid, rest):
        self.nodeid, self.rest = nodeid, rest

    def get_closest_marker(self, name):
        return name == "rest" and self.rest


def test_shares_are_the_whole_rest_and_no_test_is_in_two():
    names = [f"tests/test_a.py::test_{i}" for i in range(9)]
    names += [f"tests/test_b.py::test_{i}[{system}]" for i in range(2) for system in MODELS]
    rest, first = [Item(name, True) for name in names], Item("tests/test_c.py::test_0", False)
    shares = []
    for index in range(6):
        config = types.SimpleNamespace(
            getoption=lambda name, index=index: f"{index}/6",
            hook=types.SimpleNamespace(pytest_deselected=lambda items: None),
        )
        items = [first, *rest]
        pytest_collection_modifyitems(config, items)
        assert first in items  # `-m rest` leaves it out
        shares.append(items[1:])
    assert sorted(item.nodeid for share in shares for item in share) == sorted(names)
    assert all(shares)
    for share in shares:  # those of a system in a file stay together
        names = [item.nodeid for item in share if "test_b" in item.nodeid]
        assert len(names) == 2 * len(set(map(group_of, names)))
