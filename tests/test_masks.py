"""Masks against their definitions, spelled out entry by entry."""

import itertools

import numpy as np
import pytest

from vaezoo.layers import masks

RANKS = [[0], [0, 1, 2], [2, 1, 0], [0, 0, 1, 2, 2]]


def test_ranks_of_inputs_count_up_or_down():
    assert masks.input_ranks(4).tolist() == [0, 1, 2, 3]
    assert masks.input_ranks(4, backwards=True).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("num_inputs", [1, 2, 5])
@pytest.mark.parametrize("num_units", [1, 5, 7, 30])
def test_hidden_ranks_are_spread_evenly(num_units, num_inputs):
    ranks = masks.hidden_ranks(num_units, num_inputs)
    counts = np.bincount(ranks, minlength=num_inputs)
    assert counts.sum() == num_units
    assert len(counts) == num_inputs
    assert counts.max() - counts.min() <= 1
    assert (np.diff(ranks) >= 0).all()  # weights on disk rely on which unit has which rank


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("in_ranks", RANKS)
@pytest.mark.parametrize("out_ranks", RANKS)
def test_a_dense_mask_compares_ranks(in_ranks, out_ranks, strict):
    mask = masks.dense_mask(in_ranks, out_ranks, strict=strict)
    assert mask.shape == (len(in_ranks), len(out_ranks))
    for i, in_rank in enumerate(in_ranks):
        for o, out_rank in enumerate(out_ranks):
            assert mask[i, o] == (in_rank < out_rank or (not strict and in_rank == out_rank))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("hidden_sizes", [(), (5,), (7, 11)])
def test_a_net_joins_each_output_to_exactly_the_inputs_before_it(hidden_sizes, backwards):
    """The product of the masks counts the paths from an input to an output."""
    num_inputs = 5
    ranks = masks.net_ranks(num_inputs, hidden_sizes, backwards)
    paths = np.eye(num_inputs)
    for index, (before, after) in enumerate(itertools.pairwise(ranks)):
        paths = paths @ masks.dense_mask(before, after, strict=index == 0)
    before = np.tri(num_inputs, k=-1).T  # [in, out], in < out
    expected = before[::-1, ::-1] if backwards else before
    np.testing.assert_array_equal(paths > 0, np.hstack([expected, expected]))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("in_ranks", "out_ranks"), [([0, 1, 2], [0, 1, 1, 2]), ([0, 0, 1], [1, 0, 1, 0])])
def test_a_conv_mask_sees_the_taps_before_the_centre(in_ranks, out_ranks, kernel_size, backwards, strict):
    mask = masks.conv_mask(in_ranks, out_ranks, kernel_size, strict=strict, backwards=backwards)
    assert mask.shape == (kernel_size, kernel_size, len(in_ranks), len(out_ranks))
    centre = kernel_size // 2
    for row, column, i, o in np.ndindex(mask.shape):
        above_or_left = row < centre or (row == centre and column < centre)
        below_or_right = row > centre or (row == centre and column > centre)
        at_centre = in_ranks[i] < out_ranks[o] or (not strict and in_ranks[i] == out_ranks[o])
        seen = below_or_right if backwards else above_or_left
        assert mask[row, column, i, o] == (seen or ((row, column) == (centre, centre) and at_centre))


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_an_even_kernel_is_refused(kernel_size):
    with pytest.raises(ValueError, match=f"`kernel_size` must be odd. Received: {kernel_size}"):
        masks.conv_mask([0], [0], kernel_size, strict=True)
