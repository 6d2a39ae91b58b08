"""Sampling speed of the ResNet VAE against a pixel-by-pixel sampler: seconds per image and ratios of one run.

    python benchmarks/sampling_speed.py [--passes 64 | --full] [--rounds 5]

Section 5.6.2.2 of Kingma (2017): 0.05 s per 32x32 image for the ResNet VAE, 52 s for a PixelCNN that is sampled
naively, with a pass of the whole net for each value (on a GPU). The contestants, of about 400,000 parameters each:

    iaf_cifar10   the zoo's entry: one pass from the top for a batch of images
    sub-pixel     masked convolutions, each value given all values before it: 3072 passes
    pixel         the same net with other masks, a pixel's 3 values independent given the pixels before: 1024 passes

All draw from a discretised logistic whose parameters the net puts out, and make their weight-normalised kernels anew in
each pass. Weights are fresh: the speed does not depend on them, and the pictures are noise. The masked samplers are
timed over `--passes` passes, and their seconds per image are extrapolated from these to all, unless `--full` runs them
all. The contestants take turns, so that a machine that slows down slows them all; the ratio printed is the median of
the ratios of the rounds.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import vaezoo
from vaezoo.layers import masks, weight_norm

IMAGE_SHAPE, BATCHES = (32, 32, 3), (1, 16)
FILTERS, HIDDEN_LAYERS, FIRST_KERNEL = 64, 10, 7  # as large as iaf_cifar10; the masks cut half of that off
LOG_SCALE = -3.5  # about which the net's log-scales lie: 8 of 256 grey levels


def draw(loc, log_scale, uniform):
    """Draws values k / 255 from the discretised logistic: its inverse CDF at `uniform`, then the bin of that."""
    x = loc + tf.exp(log_scale) * (tf.math.log(uniform) - tf.math.log1p(-uniform))  # on the scale -1/2..1/2
    return tf.clip_by_value(tf.floor(256.0 * (x + 0.5)), 0.0, 255.0) / 255.0


def uniform_draws(shape, seed):
    """Returns draws from the open interval (0, 1): at 0 the inverse CDF would be infinite."""
    return tf.random.stateless_uniform(shape, seed, minval=1e-6, maxval=1.0 - 1e-6)


class MaskedModel:
    """A PixelCNN: residual masked convolutions, x [B, H, W, C] -> loc, log_scale of each value, [B, H, W, C].

    Args:
        num_ranks: C, and each value of a pixel depends on those before it; or 1, and none does.
        channels: int, C.
        filters, hidden_layers: ints.
    """

    def __init__(self, num_ranks, channels=3, filters=FILTERS, hidden_layers=HIDDEN_LAYERS):
        self.num_ranks = num_ranks
        pixel, hidden = masks.hidden_ranks(channels, num_ranks), masks.hidden_ranks(filters, num_ranks)

        def conv(before, after, kernel_size, strict=False):
            mask = masks.conv_mask(before, after, kernel_size, strict=strict)
            return weight_norm.Conv2D(len(before), len(after), kernel_size, mask=mask)

        self.first = conv(pixel, hidden, FIRST_KERNEL, strict=True)
        self.hidden = [conv(hidden, hidden, 3) for _ in range(hidden_layers)]
        self.last = conv(hidden, [*pixel, *pixel], 3)  # loc, log_scale

    def count_params(self):
        return sum(layer.count_params() for layer in (self.first, *self.hidden, self.last))

    def __call__(self, x):
        h = self.first(x - 0.5)
        for layer in self.hidden:
            h = h + layer(tf.nn.elu(h))
        loc, log_scale = tf.split(self.last(tf.nn.elu(h)), 2, axis=-1)
        return 0.1 * loc, 0.1 * log_scale + LOG_SCALE

    def sample(self, uniform, passes=None):
        """Returns images from `uniform_draws` [B, H, W, C]; after so many passes the rest is black; default: all."""
        shape, steps = uniform.shape, self.num_passes(uniform.shape)
        by_step = [-1, steps, uniform.shape[1:].num_elements() // steps]  # values that a pass draws: 1, or a pixel's
        uniform, x = tf.reshape(uniform, by_step), tf.zeros(shape)
        for step in tf.range(passes or steps):
            loc, log_scale = (tf.reshape(value, by_step) for value in self(x))
            value = draw(loc[:, step], log_scale[:, step], uniform[:, step])
            here = tf.one_hot(step, steps, on_value=True, off_value=False)[:, tf.newaxis]
            x = tf.reshape(tf.where(here, value[:, tf.newaxis], tf.reshape(x, by_step)), shape)
        return x

    def num_passes(self, shape):
        return int(np.prod(shape[1:])) // (shape[-1] // self.num_ranks)


def check(num_ranks):
    """Checks on 4x4 images that the masks keep the order, and that the sampler's images are the model's draws."""
    model, shape = MaskedModel(num_ranks, filters=6, hidden_layers=2), (4, 4, 3)
    size = int(np.prod(shape))
    rows = np.tile(np.random.default_rng(0).random(shape).astype("float32").reshape(-1), [size, 1])
    changed = rows + np.eye(size, dtype="float32")  # row i has another value i
    before, after = (np.reshape(model(x.reshape(-1, *shape)), [2, size, size]) for x in (rows, changed))
    sees = np.any(before != after, axis=0)  # [i, j]: the parameters of value j depend on value i
    steps = np.arange(size) // (size // model.num_passes([1, *shape]))
    assert not sees[steps[:, None] >= steps].any(), "a value must not depend on values of its own or of later passes"
    assert sees[0, steps == 1].all(), "a value must depend on its neighbour in the pass before"
    uniform = uniform_draws([2, *shape], [0, 1])
    images = model.sample(uniform)
    np.testing.assert_array_equal(images, draw(*model(images), uniform))


def vae_sampler(model, batch):
    @tf.function
    def sample(seed):
        loc = model.sample(batch, seed=seed) - 0.5  # `sample` gives the means; a draw as of the others is on top
        return draw(loc, tf.convert_to_tensor(model.log_scale), uniform_draws([batch, *IMAGE_SHAPE], [seed, 1]))

    return lambda: sample(tf.constant(0)).numpy()


def masked_sampler(model, batch, passes):
    sample = tf.function(lambda: model.sample(uniform_draws([batch, *IMAGE_SHAPE], [0, 1]), passes))
    return lambda: sample().numpy()


def seconds(function, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=64, help="of a masked sampler in each round")
    parser.add_argument(
        "--full", action="store_true", help="all passes, in each round; a quarter of an hour each on a CPU"
    )
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for num_ranks in (3, 1):
        check(num_ranks)
    vae = vaezoo.load("iaf_cifar10", weights=None)
    masked = {"sub-pixel": MaskedModel(3), "pixel": MaskedModel(1)}
    for name, model in {"iaf_cifar10": vae, **masked}.items():
        print(f"{name}: {model.count_params():,} parameters")
    contestants = {}  # (name, batch) -> sampler, calls in a round, seconds of a call -> seconds per image, passes
    for batch in BATCHES:
        contestants["iaf_cifar10", batch] = vae_sampler(vae, batch), 50, 1 / batch, "1"
        for name, net in masked.items():
            steps = net.num_passes([batch, *IMAGE_SHAPE])
            passes = steps if args.full else min(args.passes, steps)
            sampler = masked_sampler(net, batch, passes)
            contestants[name, batch] = sampler, 1, steps / passes / batch, f"{passes} of {steps}"
    for sampler, *_ in contestants.values():
        sampler()  # traces, warms up
    times = {key: [] for key in contestants}
    for _ in range(args.rounds):
        for key, (sampler, repeats, scale, _) in contestants.items():
            times[key].append(scale * seconds(sampler, repeats))
    cores = len(os.sched_getaffinity(0))
    print(f"seconds per image, median of {args.rounds} rounds, {cores} core(s); of some passes: extrapolated to all")
    print(f"{'batch':>5}  {'model':12} {'passes':>12} {'s/image':>9} {'least':>9} {'most':>9} {'/ iaf_cifar10':>14}")
    for (name, batch), values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["iaf_cifar10", batch], strict=True))
        figures = f"{statistics.median(values):9.4f} {min(values):9.4f} {max(values):9.4f} {ratio:14,.0f}"
        print(f"{batch:5}  {name:12} {contestants[name, batch][-1]:>12} {figures}")


if __name__ == "__main__":
    main()
