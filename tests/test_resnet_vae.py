"""The ResNet VAE: its densities against its own generative direction, both directions of inference, its groups."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo.layers import flows
from vaezoo.layers.distributions import DiscretizedLogistic
from vaezoo.models.resnet_vae import INFERENCE, BottomUpBlock, Posterior, ResNetVAE, centred

tfd = tfp.distributions
SHAPE, SIZES = (6, 5, 2), {"num_blocks": 3, "filters": 5, "latent_filters": 2, "flow_hidden_layers": 1}
X = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype("uint8")


def make(**settings):
    """A model whose weights are all off their initial values."""
    keras.utils.set_random_seed(0)
    model = ResNetVAE(SHAPE, **{**SIZES, **settings})
    model.initialize(X)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    return model


@pytest.fixture(params=sorted(INFERENCE))
def inference(request):
    return request.param


@pytest.fixture
def model(inference):
    return make(inference=inference)


def test_log_weights_equal_the_joint_density_of_the_generative_direction(model):
    """log p(x, z) - log q(z | x), for z found by inference, with p(x, z) taken from the generative direction alone.

    The noise that `generate` would need for the same z is (z - mean) / sd, so that log p(z_l | z_>l) follows from the
    change of variables with an autodiff Jacobian, diagonal within a layer.
    """
    noise = model.noise(1, len(X), seed=[0, 1])
    terms = model.terms(X, noise)
    _, latents, _ = model._infer(tf.constant(X / np.float32(255)), noise)
    h, log_prior = model._top(len(X)), 0.0
    for index in reversed(range(3)):
        block, z = model.blocks[index], latents[index]
        zero, one = tf.zeros_like(z), tf.ones_like(z)
        mean = block.generate(h, zero)[1]
        sd = block.generate(h, one)[1] - mean
        log_prior += tf.reduce_sum(tfd.Normal(mean, sd).log_prob(z), [1, 2, 3])
        h = block.decode(h, z)
    loc = model.head(tf.nn.elu(h))
    log_lik = tf.reduce_sum(DiscretizedLogistic(loc, model.log_scale.value).log_prob(X / 255), [1, 2, 3])
    np.testing.assert_allclose(terms.log_lik[0], log_lik, rtol=1e-5)
    # What is left of the KL is log q, the standard normal's density of the noise less the flow's log-determinant.
    log_q = tf.reduce_sum(terms.kl[0], -1) + log_prior
    expected = tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(noise[0]), [1, 2, 3, 4]) - log_det_of_inference(model, noise)
    np.testing.assert_allclose(log_q, expected, rtol=1e-4)


def log_det_of_inference(model, noise):
    """slogdet of autodiff's Jacobian of all latents of all layers by all noise, per example."""
    x = tf.constant(X / np.float32(255))
    with tf.GradientTape() as tape:
        flat = tf.reshape(noise[0], [len(X), -1])
        tape.watch(flat)
        _, latents, _ = model._infer(x, tf.reshape(flat, noise.shape))
        z = tf.reshape(tf.stack(latents, axis=1), [len(X), -1])
    return np.linalg.slogdet(tape.batch_jacobian(z, flat).numpy().astype("float64"))[1]


# A plain forward pass in float64, as the module's docstring has it, from weights alone.


def elu(h):
    return np.where(h > 0.0, h, np.expm1(np.minimum(h, 0.0)))


def kernel_of(layer, out_axis=-1):
    """g v / ||v||, one norm per output; v is masked before."""
    v = np.asarray(layer.v, "float64") * (1.0 if layer.mask is None else layer.mask)
    v = np.moveaxis(v, out_axis, -1)
    norm = np.sqrt((v**2).sum(axis=(0, 1, 2)))
    return np.moveaxis(np.asarray(layer.g) * v / np.where(norm > 0.0, norm, 1.0), -1, out_axis)


def conv(layer, h, strides=1):
    return np.asarray(keras.ops.conv(h, kernel_of(layer), strides, padding="same")) + np.asarray(layer.b)


def log_normal(value, mean, log_sd):
    return scipy.stats.norm.logpdf(value, mean, np.exp(log_sd))


def draw(posterior, mean, log_sd, context, noise):
    """Algorithm 5 with steps (z - m) / exp(s), and an output scale of 0.1: z and log q of each element."""
    z = mean + np.exp(log_sd) * noise
    log_q = log_normal(z, mean, log_sd)
    for net in posterior.nets:
        first, second = net.layers
        m, s = np.split(conv(second, elu(conv(first, z) + context)), 2, axis=-1)
        z, log_q = (z - 0.1 * m) * np.exp(-0.1 * s), log_q + 0.1 * s
    return z, log_q


def plain_forward(model, x, noise):
    """Images [B, H, W, C] in [0, 1] and noise [B, L, h, w, Z] -> loc of p(x | z), and z and the KL of each layer.

    With x None the latents are the prior's.
    """
    filters, latents = SIZES["filters"], SIZES["latent_filters"]
    upward = []
    if x is not None:
        h = conv(model.stem, (255.0 * x + 0.5) / 256.0 - 0.5, 2)
        for index, block in enumerate(model.blocks):
            parts = conv(block.up_unit.first, elu(h))
            mean, log_sd = parts[..., :latents], parts[..., latents : 2 * latents]
            context = parts[..., 2 * latents : 2 * latents + filters]
            hidden = parts[..., 2 * latents + filters :]
            if isinstance(block, BottomUpBlock):
                upward.append(draw(block.posterior, mean, log_sd, context, noise[:, index]))
                hidden = np.concatenate([upward[-1][0], hidden], axis=-1)
            else:
                upward.append((mean, log_sd, context))
            if index < len(model.blocks) - 1:
                h = h + 0.1 * conv(block.up_unit.second, elu(hidden))
    h = np.broadcast_to(np.asarray(model.top, "float64"), [*noise[:, 0].shape[:-1], filters])
    zs, kls = [], []
    for index in reversed(range(len(model.blocks))):
        block = model.blocks[index]
        parts = conv(block.down_unit.first, elu(h))
        mean_p, log_sd_p = parts[..., :latents], parts[..., latents : 2 * latents]
        if x is None:
            z = mean_p + np.exp(log_sd_p) * noise[:, index]
        elif isinstance(block, BottomUpBlock):
            z, log_q = upward[index]
        else:
            mean_q, log_sd_q, context_q = upward[index]
            mean_r, log_sd_r = parts[..., 2 * latents : 3 * latents], parts[..., 3 * latents : 4 * latents]
            context_r = parts[..., 4 * latents : 4 * latents + filters]
            arguments = mean_q + mean_r, log_sd_q + log_sd_r, context_q + context_r
            z, log_q = draw(block.posterior, *arguments, noise[:, index])
        h = h + 0.1 * conv(block.down_unit.second, elu(np.concatenate([z, parts[..., -filters:]], axis=-1)))
        zs.insert(0, z)
        if x is not None:
            kls.insert(0, log_q - log_normal(z, mean_p, log_sd_p))
    shape = [len(h), *SHAPE]
    loc = tf.nn.conv2d_transpose(elu(h), kernel_of(model.head, -2), shape, 2, "SAME") + np.asarray(model.head.b)
    return np.asarray(loc), np.stack(zs, axis=1), np.stack(kls, axis=1) if kls else None


def log_mass(x, loc, log_scale):
    """The log of the logistic's mass on the bin of k/255, which is [k/256, (k + 1)/256] - 1/2; the edges have tails."""
    level, logistic = np.round(255.0 * x), scipy.stats.logistic(loc, np.exp(np.asarray(log_scale, "float64")))
    low = np.where(level == 0, -np.inf, level / 256.0 - 0.5)
    high = np.where(level == 255, np.inf, (level + 1.0) / 256.0 - 0.5)
    # In the upper tail both CDFs are 1 but for rounding: there the mass is a difference of survival functions.
    mass = np.where(low > loc, logistic.sf(low) - logistic.sf(high), logistic.cdf(high) - logistic.cdf(low))
    return np.log(mass)


@pytest.mark.parametrize("flow_steps", [1, 2])
def test_terms_equal_a_plain_forward_pass(inference, flow_steps):
    """Up and down by Keras' convolutions in float64, densities by scipy; two samples, whose noise is their own."""
    model, x = make(inference=inference, flow_steps=flow_steps), X / 255.0
    noise = model.noise(2, len(X), seed=[0, 1])
    terms = model.terms(X, noise)
    for sample in range(2):
        loc, _, kl = plain_forward(model, x, np.asarray(noise[sample], "float64"))
        log_lik = log_mass(x, loc, model.log_scale).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(terms.log_lik[sample], log_lik, rtol=1e-4)
        kl = kl.sum(axis=(2, 3)).reshape(len(X), -1)  # [B, L, h, w, Z] -> [B, L Z]
        np.testing.assert_allclose(terms.kl[sample], kl, rtol=1e-3, atol=1e-3)
    code = plain_forward(model, x, np.zeros(noise.shape[1:]))[1]
    np.testing.assert_allclose(model.encode(X), code, rtol=1e-3, atol=1e-4)


def test_generating_equals_a_plain_forward_pass_of_the_priors(inference):
    model = make(inference=inference)
    noise = model.noise(1, 4, seed=[0, 2])
    loc, z, _ = plain_forward(model, None, np.asarray(noise[0], "float64"))
    for images in (model.generate(noise), model.decode(z.astype("float32"))):
        np.testing.assert_allclose(images, np.clip(loc + 0.5, 0.0, 1.0), atol=1e-5)


def test_every_second_step_of_flow_turns_the_order_round():
    """By autodiff: in the raster's order the first step's net sees what comes before, the second's what comes after."""
    posterior = Posterior(2, 3, (4,), flows.FORMS["gated"])
    z = tf.random.stateless_normal([1, 3, 3, 2], [0, 0])
    for step, net in enumerate(posterior.nets):
        with tf.GradientTape() as tape:
            tape.watch(z)
            m, s = net(z, tf.zeros([1, 3, 3, net.context_dim]))
            sums = tf.reshape(m + s, [1, -1])
        jacobian = np.reshape(tape.jacobian(sums, z), [18, 18])  # of output i by input j
        below, above = np.any(np.tril(jacobian, -1)), np.any(np.triu(jacobian, 1))
        assert not np.any(np.diag(jacobian))
        assert (below, above) == ((True, False) if step % 2 == 0 else (False, True))


def test_decoding_the_code_is_the_reconstruction_and_generating_inverts_the_prior(model):
    z = model.encode(X)
    assert z.shape == (4, 3, 3, 3, 2)
    np.testing.assert_allclose(model.decode(z), model(X), rtol=1e-6)
    noise = model.noise(1, 4, seed=[3, 4])
    h, latents = model._top(4), []
    for index in reversed(range(3)):
        h, z_of_layer = model.blocks[index].generate(h, noise[0, :, index])
        latents.insert(0, z_of_layer)
    np.testing.assert_allclose(model.generate(noise), model.decode(tf.stack(latents, axis=1)), atol=1e-6)


def test_several_samples_are_the_single_ones_side_by_side(model):
    noise = model.noise(3, 4, seed=[1, 1])
    together = model.terms(X, noise)
    for sample in range(3):
        alone = model.terms(X, noise[sample : sample + 1])
        np.testing.assert_allclose(together.log_lik[sample], alone.log_lik[0], rtol=1e-5)
        np.testing.assert_allclose(together.kl[sample], alone.kl[0], rtol=1e-4, atol=1e-4)


def test_kl_has_a_column_per_latent_map_and_layers_add_up(model):
    terms = model.terms(X, model.noise(2, 4, seed=[0, 1]))
    assert terms.kl.shape == (2, 4, 3 * 2)
    layers = model.kl_per_layer(terms)
    assert layers.shape == (2, 4, 3)
    np.testing.assert_allclose(layers[..., 1], tf.reduce_sum(terms.kl[..., 2:4], -1), rtol=1e-5)
    model.compile()
    logs = model.evaluate(X, verbose=0, return_dict=True)
    assert sum(logs[f"kl_layer_0{layer}"] for layer in (1, 2, 3)) == pytest.approx(logs["kl"], rel=1e-5)


@pytest.mark.parametrize("form", sorted(flows.FORMS))
@pytest.mark.parametrize(("steps", "hidden"), [(0, ()), (1, ()), (1, (4,)), (2, (4, 4))])
def test_a_posterior_s_draw_equals_tfps(form, steps, hidden):
    """z and log q as `tfd.TransformedDistribution` and `tfb.MaskedAutoregressiveFlow` have them, in float32."""
    posterior = Posterior(2, steps, hidden, flows.FORMS[form])
    rng = np.random.default_rng(0)
    mean, log_sd, noise = rng.normal(size=(3, 4, 3, 3, 2)).astype("float32")
    context = rng.normal(size=(4, 3, 3, max(posterior.context_dim, 1))).astype("float32")
    z, log_q = posterior.draw(mean, log_sd, context, noise)
    gaussian = tfd.Independent(tfd.Normal(mean, np.exp(log_sd)), 3)
    start = mean + np.exp(log_sd) * noise
    chain = tfp.bijectors.Chain(
        [flows.inverse_autoregressive(net, posterior.form, context, 3) for net in reversed(posterior.nets)]
    )
    np.testing.assert_allclose(z, chain.forward(start), rtol=1e-4, atol=1e-5)
    expected = gaussian.log_prob(start) - chain.forward_log_det_jacobian(start, event_ndims=3)
    np.testing.assert_allclose(tf.reduce_sum(log_q, [1, 2, 3]), expected, rtol=1e-4)


def test_options_change_what_they_name():
    assert make(flow_steps=0).count_params() < make(flow_steps=1, flow_hidden_layers=0).count_params()
    assert make(flow_hidden_layers=0).count_params() < make(flow_hidden_layers=1).count_params()
    assert make(flow_hidden_layers=2).count_params() < make(flow_hidden_layers=2, flow_steps=2).count_params()
    assert make(inference="bottom_up").count_params() != make().count_params()
    noise = make().noise(1, 4, seed=[0, 0])
    kls = [make(flow_form=form).terms(X, noise).kl.numpy() for form in flows.FORMS]
    assert not np.allclose(kls[0], kls[1])
    assert not np.allclose(kls[1], kls[2])
    tails = [np.sum(make(edges=edges).terms(X, noise).log_lik) for edges in (True, False)]
    assert tails[0] > tails[1]


def test_a_fresh_model_starts_near_the_identity_and_is_finite():
    """The cure for the NaNs of data-dependent initialisation: means and log-sds start at a scale of 0.1."""
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype("uint8")
    model = ResNetVAE((32, 32, 3), num_blocks=4, filters=16, latent_filters=8)
    model.initialize(x)
    terms = model.terms(x, model.noise(1, 32, seed=[0, 0]))
    assert np.isfinite(terms.log_lik).all()
    assert np.mean(np.sum(terms.kl, -1)) < 0.2 * 4 * 16 * 16 * 8  # nats per latent


def test_pixels_are_centred_in_their_bins():
    np.testing.assert_allclose(centred(np.array([0.0, 1.0])), [0.5 / 256 - 0.5, 0.5 - 0.5 / 256])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": 0}, "`num_blocks` must be an integer of at least 1. Received: 0"),
        ({"flow_steps": -1}, "`flow_steps` must be an integer of at least 0. Received: -1"),
        ({"flow_hidden_layers": 1.5}, "`flow_hidden_layers` must be an integer of at least 0. Received: 1.5"),
        ({"inference": "bottomup"}, "Did you mean 'bottom_up'?"),
        ({"flow_form": "gate"}, "Did you mean 'gated'?"),
        ({"edges": 1}, "`edges` must be true or false. Received: 1"),
        ({"latent_filters": "2"}, "`latent_filters` must be an integer of at least 1. Received: '2'"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        ResNetVAE(SHAPE, **{**SIZES, **settings})
    assert message in str(error.value)
