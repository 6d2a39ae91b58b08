"""Autoregressive masks, dense and convolutional: one comparison of ranks. Numpy only.

The inputs of a masked net are put into an order; a unit's rank says how many of them it may see: those whose own place
in the order, their rank, is lower. The first layer compares strictly (an output must not see the input of its own
rank), later layers do not. Germain et al. (2015); section 5.4 of Kingma (2017).
"""

import numpy as np


def input_ranks(num_inputs, backwards=False):
    """Returns the places of the inputs in their order, forwards or backwards, int [num_inputs]."""
    ranks = np.arange(num_inputs)
    return ranks[::-1] if backwards else ranks


def hidden_ranks(num_units, num_inputs):
    """Returns ranks spread evenly over those of the inputs, int [num_units]."""
    return np.arange(num_units) * num_inputs // num_units


def net_ranks(num_inputs, hidden_sizes, backwards=False):
    """Returns the ranks of a masked net's inputs, of its hidden layers and of its outputs, m and then s."""
    first = input_ranks(num_inputs, backwards)
    return [first, *(hidden_ranks(size, num_inputs) for size in hidden_sizes), np.concatenate([first, first])]


def dense_mask(in_ranks, out_ranks, *, strict):
    """Returns which inputs a dense layer's outputs may see, float32 [in, out].

    Args:
        in_ranks: ints [in].
        out_ranks: ints [out].
        strict: True compares in < out (a net's first layer), False in <= out (the others).
    """
    return _may_see(np.asarray(in_ranks), out_ranks, strict)


def conv_mask(in_ranks, out_ranks, kernel_size, *, strict, backwards=False):
    """Returns which taps of a convolution may be seen, float32 [kernel_size, kernel_size, in, out].

    The order is that of the raster, channels innermost: taps above and to the left are all seen, those below and to
    the right never, and at the centre the ranks of the channels decide.

    Args:
        in_ranks: ints [in], the ranks of the channels, from 0.
        out_ranks: ints [out].
        kernel_size: int, odd.
        strict: as in `dense_mask`.
        backwards: True turns the raster's order round; that of the channels is in their ranks.

    Raises:
        ValueError: `kernel_size` is even.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"`kernel_size` must be odd. Received: {kernel_size}")
    rows, columns = np.indices([kernel_size, kernel_size]) - kernel_size // 2
    taps = rows * kernel_size + columns  # negative before the centre, positive after it
    num_ranks = 1 + max(np.max(in_ranks), np.max(out_ranks))
    places = (-taps if backwards else taps)[..., np.newaxis] * num_ranks + in_ranks  # [kernel_size, kernel_size, in]
    return _may_see(places, out_ranks, strict)


def _may_see(places, out_ranks, strict):
    compare = np.less if strict else np.less_equal
    return compare(places[..., np.newaxis], np.asarray(out_ranks)).astype(np.float32)
