"""Flows in float64 against autodiff, scipy and the formulas that they stand for."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import multivariate_normal, norm

from vaezoo.layers import flows
from vaezoo.posteriors import POSTERIORS, InverseAutoregressiveFlow, reparameterize

tfb, tfd = tfp.bijectors, tfp.distributions

DIM, BATCH, FEATURES = 4, 3, 5
MAP = (3, 3, 2)  # height, width, channels
HIDDEN = [(), (6,), (6, 5)]


def randomize(net, seed, output_scale=1.0):
    """Gives a net kernels of norm 1/2 to 1 per output: larger gates compound to Jacobians of no use for an inverse."""
    rng = np.random.default_rng(seed)
    for weight in net.weights:
        values = rng.uniform(0.5, 1.0, weight.shape) if weight.name == "g" else 0.5 * rng.normal(size=weight.shape)
        weight.assign(values)
    for weight in (net.layers[-1].g, net.layers[-1].b):
        weight.assign(weight / output_scale)
    return net


# What the forms multiply m and s by, roughly, which tests undo: steps near the identity would show little.
SCALES = {"gated": 1.0, "location_scale": 2.0 * flows.OUTPUT_SCALE, "location": flows.OUTPUT_SCALE}


def normal(shape, seed):
    """Standard normal draws, float64."""
    return tf.constant(np.random.default_rng([1, seed]).normal(size=shape))


# Every step, in float64: seed -> bijector, over vectors [BATCH, DIM] or over maps [BATCH, *MAP].


def dense_iaf(form, hidden_units, backwards=False):
    def make(seed):
        net = flows.MaskedDenseNet(DIM, hidden_units, backwards=backwards, dtype="float64")
        randomize(net, seed, SCALES[form])
        return flows.inverse_autoregressive(net, flows.FORMS[form], normal((BATCH, net.context_dim), seed), 1)

    return make


def conv_iaf(form, hidden_filters, backwards):
    def make(seed):
        net = flows.MaskedConvNet(MAP[-1], hidden_filters, backwards=backwards, dtype="float64")
        randomize(net, seed, SCALES[form])
        context = normal((BATCH, *MAP[:-1], net.context_dim), seed)
        return flows.inverse_autoregressive(net, flows.FORMS[form], context, 3)

    return make


def coupling(hidden_units, num_kept):
    def make(seed):
        net = flows.CouplingNet(abs(num_kept), DIM - abs(num_kept), hidden_units, dtype="float64")
        randomize(net, seed, flows.OUTPUT_SCALE)
        return flows.coupling(net, normal((BATCH, net.context_dim), seed), num_kept)

    return make


def planar(seed, dim=DIM, batch=(BATCH,)):
    u, w = normal((*batch, dim), seed), 0.7 * normal((*batch, dim), seed + 50)
    return flows.Planar(u, w, normal(batch, seed + 100))


def radial(seed, dim=DIM, batch=(BATCH,)):
    alpha, gamma = (tf.exp(normal(batch, seed + shift)) for shift in (50, 100))
    return flows.Radial(normal((*batch, dim), seed), alpha, gamma)


VECTOR_STEPS = {
    **{
        f"iaf {form} {hidden}": dense_iaf(form, hidden, backwards=hidden == (6,))
        for form, hidden in itertools.product(flows.FORMS, HIDDEN)
    },
    **{f"coupling {hidden} {kept}": coupling(hidden, kept) for hidden in HIDDEN for kept in (1, 2, -1)},
    "planar": planar,
    "radial": radial,
}
MAP_STEPS = {
    f"conv iaf {form} {hidden}{' backwards' * backwards}": conv_iaf(form, hidden, backwards)
    for form, hidden, backwards in [
        ("gated", (), True),
        ("gated", (4,), False),
        ("gated", (4,), True),
        ("location_scale", (4, 4), True),
        ("location", (4,), False),
    ]
}
# Chains of several steps, as posteriors make them.
CHAINS = {
    **{
        f"2 x iaf {form} {hidden}": lambda seed, form=form, hidden=hidden: tfb.Chain(
            [dense_iaf(form, hidden, True)(seed + 1), dense_iaf(form, hidden)(seed)]
        )
        for form, hidden in itertools.product(flows.FORMS, HIDDEN[:2])
    },
    "2 x coupling": lambda seed: tfb.Chain([coupling((6,), -2)(seed + 1), coupling((6,), 2)(seed)]),
    "3 x planar": lambda seed: tfb.Chain([planar(seed + i) for i in range(3)]),
    "3 x radial": lambda seed: tfb.Chain([radial(seed + i) for i in range(3)]),
}
EVERY = {**VECTOR_STEPS, **CHAINS, **MAP_STEPS}


def event_shape(name):
    return MAP if name in MAP_STEPS else (DIM,)


def jacobian(function, x, event_ndims):
    """dy_i/dx_j of each example by autodiff, [BATCH, n, n], the elements of an event in their own order."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = tf.unstack(tf.reshape(function(x), [BATCH, -1]), axis=1)
    # Examples do not meet, so that the gradient of a sum over them has that of each.
    rows = [tape.gradient(output, x, unconnected_gradients="zero") for output in outputs]
    return np.stack([np.reshape(row, [BATCH, -1]) for row in rows], axis=1)


@pytest.mark.parametrize("name", EVERY)
def test_log_determinant_equals_autodiff_jacobian(name):
    flow, event_ndims = EVERY[name](0), len(event_shape(name))
    y = 1.5 * normal((BATCH, *event_shape(name)), 7)
    expected = np.linalg.slogdet(jacobian(flow.forward, y, event_ndims))[1]
    np.testing.assert_allclose(flow.forward_log_det_jacobian(y, event_ndims), expected, atol=1e-11)
    assert flow.forward_min_event_ndims == flow.inverse_min_event_ndims == event_ndims


@pytest.mark.parametrize("name", EVERY)
def test_the_inverse_undoes_the_map(name):
    """Of a copy, for TFP remembers where a tensor came from: the loop over dimensions, the root search, the formula."""
    flow, event_ndims = EVERY[name](0), len(event_shape(name))
    x = 1.5 * normal((BATCH, *event_shape(name)), 7)
    y = tf.identity(flow.forward(x))
    np.testing.assert_allclose(flow.inverse(y), x, atol=1e-11)
    log_det = flow.forward_log_det_jacobian(x, event_ndims)
    np.testing.assert_allclose(flow.inverse_log_det_jacobian(y, event_ndims), -log_det, atol=1e-11)


@pytest.mark.parametrize("name", ["coupling (6,) 1", "coupling (6,) -1", "planar", "radial"])
def test_every_point_is_reached(name):
    flow, y = EVERY[name](0), 10.0 * normal((BATCH, DIM), 7)
    np.testing.assert_allclose(flow.forward(tf.identity(flow.inverse(y))), y, atol=1e-11)


@pytest.mark.parametrize("name", ["iaf gated (6,)", "coupling (6,) 2", "planar", "radial"])
def test_samples_before_the_batch_are_mapped_one_by_one(name):
    flow, x = EVERY[name](0), normal((5, 2, BATCH, DIM), 7)
    y, log_det = flow.forward(x), flow.forward_log_det_jacobian(x, 1)
    assert log_det.shape == (5, 2, BATCH)
    for index in np.ndindex(5, 2):
        np.testing.assert_allclose(y[index], flow.forward(x[index]), atol=1e-14)
        np.testing.assert_allclose(log_det[index], flow.forward_log_det_jacobian(x[index], 1), atol=1e-13)
    np.testing.assert_allclose(flow.inverse(tf.identity(y)), x, atol=1e-11)


# Inverse autoregressive flow.


@pytest.mark.parametrize("part", ["m", "s"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_masked_nets_are_strictly_triangular_in_their_order(kind, hidden, backwards, part):
    """For vectors, an output depends on every input before it; maps are larger than what a convolution sees."""
    if kind == "dense":
        net, shape = flows.MaskedDenseNet(DIM, hidden, backwards=backwards, dtype="float64"), (DIM,)
        context = normal((BATCH, net.context_dim), 2)
    else:
        net, shape = flows.MaskedConvNet(MAP[-1], hidden, backwards=backwards, dtype="float64"), MAP
        context = normal((BATCH, *MAP[:-1], net.context_dim), 2)
    randomize(net, 0)
    found = jacobian(lambda y: net(y, context)["ms".index(part)], normal((BATCH, *shape), 7), len(shape))
    if backwards:
        found = found[:, ::-1, ::-1]
    np.testing.assert_array_equal(found, np.tril(found, -1))
    before = np.tri(found.shape[-1], k=-1, dtype=bool)
    if kind == "dense":
        assert (found[:, before] != 0).all()
    # The value just before, in the order: another channel of the same place, or the place to the left.
    values_in_a_row = np.arange(1, MAP[1] * MAP[2] if kind == "conv" else DIM)
    assert (found[:, values_in_a_row, values_in_a_row - 1] != 0).all()


@pytest.mark.parametrize("form", flows.FORMS)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_step_equals_the_bijector(kind, form):
    shape = (DIM,) if kind == "dense" else MAP
    net = flows.MaskedDenseNet(DIM, (6,), dtype="float64") if kind == "dense" else None
    net = net or flows.MaskedConvNet(MAP[-1], (4,), dtype="float64")
    randomize(net, 0)
    y, context = normal((BATCH, *shape), 7), normal((BATCH, *shape[:-1], net.context_dim), 2)
    z, log_det = flows.step(net, flows.FORMS[form], y, context)
    flow = flows.inverse_autoregressive(net, flows.FORMS[form], context, len(shape))
    np.testing.assert_allclose(z, flow.forward(y), atol=1e-14)
    np.testing.assert_allclose(
        tf.reduce_sum(log_det, list(range(1, len(shape) + 1))), flow.forward_log_det_jacobian(y, len(shape)), atol=1e-13
    )


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


FORMULAS = {
    "gated": lambda y, m, s: sigmoid(s + 1.5) * y + (1 - sigmoid(s + 1.5)) * m,  # eqs. (5.31), (5.32), gate bias 1.5
    "location_scale": lambda y, m, s: (y - 0.1 * m) / np.exp(0.1 * s),  # eq. (5.19)
    "location": lambda y, m, s: y - 0.1 * m,
}


@pytest.mark.parametrize("form", flows.FORMS)
def test_a_form_is_its_formula(form):
    y, m, s = (10.0 * normal((BATCH, DIM), seed) for seed in range(3))
    z, _ = flows.step(lambda y, context: (m, s), flows.FORMS[form], y, None)
    np.testing.assert_allclose(z, FORMULAS[form](y.numpy(), m.numpy(), s.numpy()), rtol=1e-12, atol=1e-12)


def test_the_context_is_added_to_what_the_first_layer_puts_out():
    """So a context does what the first layer's b does."""
    for net, shape in [
        (flows.MaskedDenseNet(DIM, (6,), dtype="float64"), (DIM,)),
        (flows.MaskedConvNet(MAP[-1], (4,), dtype="float64"), MAP),
        (flows.CouplingNet(DIM, 2, (6,), dtype="float64"), (DIM,)),
    ]:
        randomize(net, 0)
        y, context = normal((BATCH, *shape), 7), normal((net.context_dim,), 2)
        given = net(y, context)
        net.layers[0].b.assign_add(context)
        np.testing.assert_allclose(given, net(y, tf.zeros_like(context)), atol=1e-14)


@pytest.mark.parametrize("form", flows.FORMS)
def test_one_linear_step_is_any_gaussian(form):
    """Section 5.4: with s constant a step is z = a y + c m, m = M y + b with M any triangular matrix."""
    a, c = (sigmoid(1.5), 1 - sigmoid(1.5)) if form == "gated" else (1.0, -0.1)
    rng = np.random.default_rng(0)
    mean, factor = rng.normal(size=DIM), np.tril(rng.normal(size=(DIM, DIM)))
    np.fill_diagonal(factor, np.exp(0.5 * rng.normal(size=DIM)))  # N(mean, factor factor')

    posterior = InverseAutoregressiveFlow(FEATURES, DIM, num_steps=1, hidden_units=(), form=form)
    scale = np.diag(factor) / a  # of y = scale * noise; then a y + c M y + c b = factor noise + mean
    matrix = (factor / scale - a * np.eye(DIM)) / c  # M
    assert np.count_nonzero(np.triu(matrix.round(12))) == 0
    params = posterior.gaussian.params
    params.kernel.assign(tf.zeros_like(params.kernel))
    params.bias.assign(np.concatenate([np.zeros(DIM), np.log(scale)]))
    (layer,), (context,) = posterior.nets[0].layers, posterior.contexts
    layer.v.assign(np.hstack([matrix.T, np.ones((DIM, DIM))]))
    layer.g.assign(np.concatenate([np.linalg.norm(matrix, axis=1), np.zeros(DIM)]))  # s = 0
    layer.b.assign(np.concatenate([mean / c, np.zeros(DIM)]))
    context.g.assign(tf.zeros_like(context.g))

    expected = multivariate_normal(mean, factor @ factor.T)
    q = posterior.distribution(tf.random.stateless_normal([BATCH, FEATURES], [0, 1]))
    z, log_q = reparameterize(q, tf.random.stateless_normal([20, BATCH, DIM], [1, 2]))
    np.testing.assert_allclose(log_q, expected.logpdf(z), rtol=1e-5, atol=1e-5)
    elsewhere = 2.0 * tf.random.stateless_normal([20, BATCH, DIM], [3, 4])
    np.testing.assert_allclose(q.log_prob(elsewhere), expected.logpdf(elsewhere), rtol=1e-5, atol=1e-5)


# Planar and radial steps, couplings.


def test_a_planar_step_is_eq_5_17_with_the_corrected_u():
    """Appendix A.1 of Rezende and Mohamed, with m(0) = 0."""
    u, w, b, z = normal((BATCH, DIM), 1), normal((BATCH, DIM), 2), normal((BATCH,), 3), normal((BATCH, DIM), 4)
    for row in range(BATCH):
        along = w[row].numpy() @ u[row].numpy()
        m = np.log(1.0 + (np.e - 1.0) * np.exp(along)) - 1.0
        u_hat = u[row] + (m - along) * w[row] / (w[row].numpy() @ w[row].numpy())
        expected = z[row] + u_hat * np.tanh(w[row].numpy() @ z[row].numpy() + b[row])
        np.testing.assert_allclose(flows.Planar(u, w, b).forward(z)[row], expected, atol=1e-14)


@pytest.mark.parametrize("size", [-1000.0, -10.0, -1.0, 0.0, 1.0, 1000.0])
def test_planar_steps_are_increasing_along_w_whatever_u_is(size):
    """w'f(z) is a function of w'z alone; it would fall where w'u_hat < -1."""
    w = tf.constant([1.0, -2.0, 0.5, 0.0], tf.float64)
    u = size * w / tf.reduce_sum(w * w)  # w'u = size
    line = np.linspace(-6.0, 6.0, 2001)[:, None] * w / tf.reduce_sum(w * w)  # w'z = -6 ... 6
    image = tf.reduce_sum(w * flows.Planar(u, w, tf.constant(0.3, tf.float64)).forward(line), -1).numpy()
    assert (np.diff(image) > 0).all()


def test_planar_steps_with_u_0_and_with_w_0():
    z, zero, vector = normal((BATCH, DIM), 3), tf.zeros([BATCH, DIM], tf.float64), normal((BATCH, DIM), 4)
    b = normal((BATCH,), 5)
    identity = flows.Planar(zero, vector, b)
    np.testing.assert_allclose(identity.forward(z), z, atol=1e-15)
    np.testing.assert_allclose(identity.forward_log_det_jacobian(z, 1), np.zeros(BATCH), atol=1e-15)
    shift = flows.Planar(vector, zero, b)
    np.testing.assert_allclose(shift.forward(z), z + vector * tf.tanh(b)[:, None], atol=1e-15)
    np.testing.assert_allclose(shift.inverse(tf.identity(shift.forward(z))), z, atol=1e-15)
    with tf.GradientTape() as tape:
        tape.watch([zero, vector, b])
        outputs = flows.Planar(vector, zero, b).forward(z)
    for gradient in tape.gradient(outputs, [zero, vector, b]):
        assert np.isfinite(gradient).all()


def test_the_planar_inverse_has_the_derivatives_of_an_inverse():
    """Those of a root, which its search does not have."""
    flow, y = planar(0), normal((BATCH, DIM), 7)
    inverse = jacobian(flow.inverse, y, 1)
    forward = jacobian(flow.forward, tf.identity(flow.inverse(y)), 1)
    np.testing.assert_allclose(inverse @ forward, np.broadcast_to(np.eye(DIM), inverse.shape), atol=1e-9)


def test_a_radial_step_is_eq_14_of_rezende_and_mohamed():
    centre, z = normal((BATCH, DIM), 1), normal((BATCH, DIM), 2)
    alpha, gamma = np.array([0.5, 1.0, 2.0]), np.array([0.1, 1.0, 5.0])
    r = np.linalg.norm(z - centre, axis=-1)
    expected = z + ((gamma - alpha) / (alpha + r))[:, None] * (z - centre)
    flow = flows.Radial(centre, tf.constant(alpha), tf.constant(gamma))
    np.testing.assert_allclose(flow.forward(z), expected, atol=1e-14)


def test_a_radial_step_at_its_centre():
    centre, alpha, gamma = normal((BATCH, DIM), 1), normal((BATCH,), 2) ** 2, normal((BATCH,), 3) ** 2
    z = tf.identity(centre)
    with tf.GradientTape() as tape:
        tape.watch([z, centre, alpha, gamma])
        flow = flows.Radial(centre, alpha, gamma)
        y, log_det = flow.forward(z), flow.forward_log_det_jacobian(z, 1)
    np.testing.assert_array_equal(y, centre)
    np.testing.assert_array_equal(flow.inverse(tf.identity(y)), centre)
    np.testing.assert_allclose(log_det, DIM * np.log(gamma / alpha), rtol=1e-12)
    for gradient in tape.gradient([y, log_det], [z, centre, alpha, gamma]):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 1e-6), (1e-6, 1.0), (1e3, 1e-3), (1.0, 1e6)])
def test_radial_steps_are_inverted_where_formulas_cancel(alpha, gamma):
    centre = tf.zeros([DIM], tf.float64)
    z = np.geomspace(1e-8, 1e8, 33)[:, None] * normal((DIM,), 0)
    flow = flows.Radial(centre, tf.constant(alpha, tf.float64), tf.constant(gamma, tf.float64))
    np.testing.assert_allclose(flow.inverse(tf.identity(flow.forward(z))), z, rtol=1e-12)


@pytest.mark.parametrize("num_kept", [1, 2, 3, -1, -2, -3])
def test_a_coupling_moves_its_half_by_a_function_of_the_other(num_kept):
    """Eqs. (4), (5) of Dinh et al., with |log-scale| < 1."""
    kept, moved = (slice(num_kept), slice(num_kept, None))[:: 1 if num_kept > 0 else -1]
    net = flows.CouplingNet(abs(num_kept), DIM - abs(num_kept), (6,), dtype="float64")
    randomize(net, 0)
    x, context = 5.0 * normal((BATCH, DIM), 7), 5.0 * normal((BATCH, net.context_dim), 2)
    y = flows.coupling(net, context, num_kept).forward(x).numpy()
    m, s = (part.numpy() for part in net(x[:, kept], context))
    np.testing.assert_array_equal(y[:, kept], x[:, kept])
    np.testing.assert_allclose(y[:, moved], x[:, moved] * np.exp(np.tanh(0.1 * s)) + 0.1 * m, atol=1e-13)


# Densities.


DENSITIES = {
    "planar": lambda dim: tfb.Chain([planar(seed, dim, ()) for seed in range(3)]),
    "radial": lambda dim: tfb.Chain([radial(seed, dim, ()) for seed in range(3)]),
}


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", DENSITIES)
def test_densities_integrate_to_one(name, dim):
    """By the inverse, on a grid: log-determinant and inverse belong together."""
    noise = tfd.MultivariateNormalDiag(tf.zeros(dim, tf.float64))
    q = tfd.TransformedDistribution(noise, DENSITIES[name](dim))
    axis, width = np.linspace(-14.0, 14.0, 20001 if dim == 1 else 301, retstep=True)
    points = np.stack(np.meshgrid(*[axis] * dim), axis=-1).reshape(-1, dim)
    mass = np.exp(q.log_prob(tf.constant(points))).sum() * width**dim
    np.testing.assert_allclose(mass, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_mass_below_a_draw_is_that_below_its_noise(name):
    """A step of one dimension is increasing. By the trapezoidal rule: the radial density has kinks at its centres."""
    flow, noise = DENSITIES[name](1), np.linspace(-5.0, 5.0, 16001)
    z = flow.forward(tf.constant(noise[:, None])).numpy()[:, 0]
    assert (np.diff(z) > 0).all()
    q = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(1, tf.float64)), flow)
    density = q.prob(tf.constant(z[:, None])).numpy()
    mass = np.cumsum(np.diff(z) * (density[1:] + density[:-1]) / 2.0)
    np.testing.assert_allclose(mass, norm.cdf(noise[1:]) - norm.cdf(noise[0]), atol=1e-6)


# What a draw costs, and what it leaves behind.


def evaluations(posterior, **settings):
    """Traces a draw; returns how often each net was called, and the graph's operations."""
    counts = [0] * len(posterior.nets)
    for index, net in enumerate(posterior.nets):

        def counted(y, context, index=index, call=net.call):
            counts[index] += 1
            return call(y, context)

        net.call = counted

    def draw(features, noise):
        return reparameterize(posterior.distribution(features), noise)

    specs = tf.TensorSpec([None, FEATURES]), tf.TensorSpec([None, None, DIM])
    graph = tf.function(draw, **settings).get_concrete_function(*specs).graph
    return counts, [operation.type for operation in graph.get_operations()]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["iaf", "coupling"])
def test_a_draw_evaluates_each_net_once(name, jit_compile):
    posterior = POSTERIORS[name](FEATURES, DIM, num_steps=3, hidden_units=(6, 5))
    counts, operations = evaluations(posterior, jit_compile=jit_compile)
    assert counts == [1, 1, 1]
    assert operations.count("Einsum") == 3 * 3  # three layers a net, of noise [S, B, D]
    assert operations.count("MatMul") == 1 + 3  # of features [B, F]: the Gaussian, and a context a step


@pytest.mark.parametrize(("name", "operation"), [("planar", "Tanh"), ("radial", "Sqrt")])
def test_a_draw_evaluates_each_amortised_step_once(name, operation):
    posterior = POSTERIORS[name](FEATURES, DIM, num_steps=3)
    posterior.nets = []
    _, operations = evaluations(posterior)
    assert operations.count(operation) == 3
    assert operations.count("MatMul") == 2  # the Gaussian, and the parameters of all steps


def test_a_draw_of_maps_evaluates_the_net_once():
    net = randomize(flows.MaskedConvNet(MAP[-1], (4,)), 0)

    @tf.function
    def draw(y, context):
        flow = flows.inverse_autoregressive(net, flows.gated, context, 3)
        return flow.forward(y), flow.forward_log_det_jacobian(y, 3)

    graph = draw.get_concrete_function(tf.TensorSpec([None, *MAP]), tf.TensorSpec([None, *MAP[:-1], 4])).graph
    assert [operation.type for operation in graph.get_operations()].count("Conv2D") == 2  # its two layers


def test_a_draw_leaves_nothing_behind():
    """TFP's caches are global, and keep a bijector for as long as a tensor lives that it has mapped."""
    bijectors = {}
    for name, posterior in POSTERIORS.items():
        q = posterior(FEATURES, DIM).distribution(tf.ones([BATCH, FEATURES]))
        reparameterize(q, tf.ones([2, BATCH, DIM]))
        bijectors[name] = weakref.ref(q.bijector)
    del q
    gc.collect()
    assert [name for name, bijector in bijectors.items() if bijector() is not None] == []


# Arguments.


@pytest.mark.parametrize("sizes", [6, "66", None, {6: 5}, [0], [2.0], (True,)], ids=str)
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda sizes: flows.MaskedDenseNet(DIM, sizes), "hidden_units"),
        (lambda sizes: flows.MaskedConvNet(DIM, sizes), "hidden_filters"),
        (lambda sizes: flows.CouplingNet(2, 2, sizes), "hidden_units"),
    ],
    ids=["dense", "conv", "coupling"],
)
def test_sizes_of_hidden_layers_are_checked(make, argument, sizes):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*integer.* of at least 1. Received: "):
        make(sizes)
