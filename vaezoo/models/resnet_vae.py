"""The ResNet VAE: a hierarchy of latent maps in residual blocks, with inverse autoregressive flow in every layer.

D. P. Kingma, "Variational inference & deep learning" (2017), section 5.6.2 and appendix 5.B; D. P. Kingma et al.,
"Improving variational inference with inverse autoregressive flow" (2016).

    p(x, z_1..z_L) = p(x | h_0) prod_l p(z_l | z_>l),  p(z_l | z_>l) = N(mean, sd of the top-down features h_l)
    p(x | h_0)     = discretised logistic, mean = deconv(elu(h_0)), one learned log-scale per channel     5.B.5

Bidirectional inference, figure 5.B.3 (b): a deterministic pass upwards, then q(z_l | ., z_>l) from both directions.

    x [B, H, W, C] -> stem, stride 2 -> h [B, H/2, W/2, F]
    up, l = 1..L:    h -> elu, conv -> mean_q, log_sd_q [.., Z], context_q [.., F], hidden [.., F]
                     h <- h + 0.1 conv(elu(hidden))
    down, l = L..1:  h -> elu, conv -> mean_p, log_sd_p, mean_r, log_sd_r [.., Z], context_r, hidden [.., F]
                     z_l ~ N(mean_q + mean_r, exp(log_sd_q + log_sd_r)), then flow steps in context_q + context_r
                     h <- h + 0.1 conv(elu([z_l, hidden]))
    h starts at the top as a learned vector, repeated over the map.

Bottom-up inference, figure 5.B.3 (a): z_l is drawn on the way up, q(z_l | z_<l, x), and enters the upward block in the
place it has in the downward one.

The KL is sampled, one column per latent map: the groups of the free bits, eq. (5.33). Samples and reconstructions are
the means of the last distribution. All layers are weight-normalised and initialised from data; means and log-sds start
small, or they would compound from block to block through exp.

Departures: log-scale per channel as in 5.B.5 (the authors' code has a single one); edge bins take the tails of the
logistic, without which the masses do not sum to 1.
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vaezoo import checks
from vaezoo.base import LatentVariableModel
from vaezoo.base.metrics import ExampleMean
from vaezoo.domains import to_unit_interval
from vaezoo.inference.terms import Terms
from vaezoo.layers import flows, weight_norm
from vaezoo.layers.distributions import DiscretizedLogistic
from vaezoo.numerics import merge_samples, split_samples, tile_samples

tfd = tfp.distributions

RESIDUAL_SCALE = 0.1  # of each block's branch, as in the authors' code
PARAMETER_INIT_SCALE = 0.1  # of means and log-sds: at 1 they compound through exp, and the first step is NaN
INITIAL_LOG_SCALE = -3.5  # of the discretised logistic: 8 of 256 grey levels


class Posterior(keras.layers.Layer):
    """A layer's q(z_l | .): a diagonal Gaussian over maps, then steps of inverse autoregressive flow (5.B.3).

    Args:
        latent_filters: int, Z.
        num_steps: int, steps of flow; 0 leaves the Gaussian.
        hidden_filters: numbers of maps of a step's hidden layers; () makes the flow linear.
        form: a function of `vaezoo.layers.flows.FORMS`.
    """

    def __init__(self, latent_filters, num_steps, hidden_filters, form, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.form = form
        self.nets = [
            flows.MaskedConvNet(
                latent_filters, hidden_filters, backwards=step % 2 == 1, dtype="float32", name=f"step_{step}"
            )
            for step in range(num_steps)
        ]
        self.context_dim = self.nets[0].context_dim if self.nets else 0
        self.built = True

    def draw(self, mean, log_sd, context, noise):
        """Returns z and log q(z | .), both [B, h, w, Z]: the latter is each element's share of eq. (5.29), nats."""
        z = mean + tf.exp(log_sd) * noise
        log_q = tfd.Normal(0.0, 1.0).log_prob(noise) - log_sd
        for net in self.nets:
            z, log_det = flows.step(net, self.form, z, context)
            log_q -= log_det
        return z, log_q


class ResidualUnit(keras.layers.Layer):
    """h + 0.1 conv(elu([latents, hidden])), where hidden is a part of conv(elu(h)); its other parts are put out.

    Args:
        filters: int, F, the maps of h and of the hidden part.
        parameters: int, maps of means and log-sds among the parts.
        context_dim: int, maps of context for the flow among the parts.
        latents: int, maps of z that join the hidden ones.
        is_last: True if h itself is needed no more.
    """

    def __init__(self, filters, parameters, context_dim, latents, is_last=False, **kwargs):
        super().__init__(**kwargs)
        self.sizes = [parameters, context_dim, 0 if is_last else filters]
        init_scale = [PARAMETER_INIT_SCALE] * parameters + [1.0] * sum(self.sizes[1:])
        settings = {"dtype": self.dtype_policy}
        self.first = weight_norm.Conv2D(filters, sum(self.sizes), init_scale=init_scale, name="first", **settings)
        self.second = None if is_last else weight_norm.Conv2D(latents + filters, filters, name="second", **settings)
        self.built = True

    def parts(self, h):
        """[B, h, w, F] -> parameters and context in float32, and hidden."""
        parameters, context, hidden = tf.split(self.first(tf.nn.elu(h)), self.sizes, axis=-1)
        return tf.cast(parameters, tf.float32), tf.cast(context, tf.float32), hidden

    def residual(self, h, hidden, z=None):
        """Returns the new h, [B, h, w, F]; h as it is if this is the last unit."""
        if self.second is None:
            return h
        joined = hidden if z is None else tf.concat([tf.cast(z, hidden.dtype), hidden], axis=-1)
        return h + RESIDUAL_SCALE * self.second(tf.nn.elu(joined))


class Block(keras.layers.Layer):
    """The generative direction, which both of inference share: `down_unit`, whose first 2Z maps are the prior's."""

    def generate(self, h, noise):
        """Returns the h below and z_l from the prior, from noise [B, h, w, Z]."""
        parameters, _, hidden = self.down_unit.parts(h)
        mean, log_sd = tf.split(parameters[..., : 2 * noise.shape[-1]], 2, axis=-1)
        z = mean + tf.exp(log_sd) * noise
        return self.down_unit.residual(h, hidden, z), z

    def decode(self, h, z):
        """Returns the h below for a given z_l, [B, h, w, Z]."""
        _, _, hidden = self.down_unit.parts(h)
        return self.down_unit.residual(h, hidden, z)


class BidirectionalBlock(Block):
    """Figure 5.B.3 (b): the upward unit is deterministic, z_l is drawn on the way down from both directions.

    Args:
        filters: int, F, the maps of h.
        latent_filters: int, Z.
        posterior: a `Posterior`.
        is_top: True for block L, above which nothing needs h.
    """

    draws_upwards = False

    def __init__(self, filters, latent_filters, posterior, is_top, **kwargs):
        super().__init__(**kwargs)
        self.posterior = posterior
        self.up_unit = ResidualUnit(
            filters, 2 * latent_filters, posterior.context_dim, 0, is_top, dtype=self.dtype_policy, name="up"
        )
        self.down_unit = ResidualUnit(
            filters, 4 * latent_filters, posterior.context_dim, latent_filters, dtype=self.dtype_policy, name="down"
        )
        self.built = True

    def up(self, h, noise):
        """Returns the h above, and what `down` wants to know of this one."""
        del noise
        parameters, context, hidden = self.up_unit.parts(h)
        return self.up_unit.residual(h, hidden), (parameters, context)

    def down(self, h, upward, noise):
        """Returns the h below, z_l [B, h, w, Z], and log q(z_l | .) - log p(z_l | .), [B, h, w, Z]."""
        parameters, context, hidden = self.down_unit.parts(h)
        prior, correction = tf.split(parameters, 2, axis=-1)
        tile = tf.shape(h)[0] // tf.shape(upward[0])[0]  # S
        mean, log_sd = tf.split(tile_samples(upward[0], tile) + correction, 2, axis=-1)
        z, log_q = self.posterior.draw(mean, log_sd, tile_samples(upward[1], tile) + context, noise)
        return self.down_unit.residual(h, hidden, z), z, log_q - gaussian_log_prob(z, prior)


class BottomUpBlock(Block):
    """Figure 5.B.3 (a): z_l is drawn in the upward unit, from the features there; arguments as above."""

    draws_upwards = True

    def __init__(self, filters, latent_filters, posterior, is_top, **kwargs):
        super().__init__(**kwargs)
        self.posterior = posterior
        context_dim = posterior.context_dim
        self.up_unit = ResidualUnit(
            filters, 2 * latent_filters, context_dim, latent_filters, is_top, dtype=self.dtype_policy, name="up"
        )
        self.down_unit = ResidualUnit(
            filters, 2 * latent_filters, 0, latent_filters, dtype=self.dtype_policy, name="down"
        )
        self.built = True

    def up(self, h, noise):
        """Returns the h above, and z_l with its log q."""
        parameters, context, hidden = self.up_unit.parts(h)
        mean, log_sd = tf.split(parameters, 2, axis=-1)
        z, log_q = self.posterior.draw(mean, log_sd, context, noise)
        return self.up_unit.residual(h, hidden, z), (z, log_q)

    def down(self, h, upward, noise):
        """Returns the h below, z_l [B, h, w, Z], and log q(z_l | .) - log p(z_l | .), [B, h, w, Z]."""
        del noise
        z, log_q = upward
        prior, _, hidden = self.down_unit.parts(h)
        return self.down_unit.residual(h, hidden, z), z, log_q - gaussian_log_prob(z, prior)


def gaussian_log_prob(z, parameters):
    """Returns log N(z; mean, exp(log_sd)) of each element; parameters are [mean, log_sd] along the last axis."""
    mean, log_sd = tf.split(parameters, 2, axis=-1)
    return tfd.Normal(0.0, 1.0).log_prob((z - mean) * tf.exp(-log_sd)) - log_sd


# The names that a config's [model.args] may use.
INFERENCE = {"bidirectional": BidirectionalBlock, "bottom_up": BottomUpBlock}


@keras.saving.register_keras_serializable(package="vaezoo")
class ResNetVAE(LatentVariableModel):
    """A ResNet VAE over 8-bit images.

    Args:
        image_shape: tuple of ints (H, W, C).
        num_blocks: int, L, the layers of latents.
        filters: int, F, the deterministic maps (n_h in the thesis).
        latent_filters: int, Z, the stochastic maps of a layer (n_z).
        inference: a name in `INFERENCE`.
        flow_steps: int, steps of inverse autoregressive flow per layer; 0 leaves diagonal Gaussians.
        flow_hidden_layers: int, hidden layers of F maps in each step's net; 0 makes the flow linear.
        flow_form: a name in `vaezoo.layers.flows.FORMS`.
        edges: False leaves the logistic's tails out of the first and the last bin, as the authors' code does.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        image_shape,
        num_blocks=20,
        filters=160,
        latent_filters=32,
        inference="bidirectional",
        flow_steps=1,
        flow_hidden_layers=2,
        flow_form="location_scale",
        edges=True,
        **kwargs,
    ):
        checks.positive_int("num_blocks", num_blocks)
        checks.positive_int("filters", filters)
        checks.positive_int("latent_filters", latent_filters)
        checks.one_of("inference", inference, INFERENCE)
        checks.non_negative_int("flow_steps", flow_steps)
        checks.non_negative_int("flow_hidden_layers", flow_hidden_layers)
        checks.one_of("flow_form", flow_form, flows.FORMS)
        height, width, channels = checks.positive_ints("image_shape", image_shape)
        map_size = -(-height // 2), -(-width // 2)
        super().__init__(image_shape, (num_blocks, *map_size, latent_filters), **kwargs)
        self.num_blocks, self.edges = num_blocks, checks.boolean("edges", edges)

        dtype = self.dtype_policy
        hidden_filters, form = (filters,) * flow_hidden_layers, flows.FORMS[flow_form]
        self.stem = weight_norm.Conv2D(channels, filters, 5, 2, dtype=dtype, name="stem")
        self.blocks = [
            INFERENCE[inference](
                filters,
                latent_filters,
                Posterior(latent_filters, flow_steps, hidden_filters, form, name="posterior"),
                is_top=index == num_blocks - 1,
                dtype=dtype,
                name=f"block_{index + 1}",
            )
            for index in range(num_blocks)
        ]
        self.top = self.add_weight((filters,), "zeros", name="top")
        self.head = weight_norm.Conv2DTranspose(
            filters, channels, (height, width), 5, init_scale=PARAMETER_INIT_SCALE, dtype=dtype, name="head"
        )
        initial = keras.initializers.Constant(INITIAL_LOG_SCALE)
        self.log_scale = self.add_weight((channels,), initial, dtype="float32", autocast=False, name="log_scale")
        self.track_initialization()
        self.kl_of_layer_trackers = [ExampleMean(name=f"kl_layer_{index + 1:02d}") for index in range(num_blocks)]

    def terms(self, x, noise, *, analytic_kl=False):
        """Returns the `Terms` of images x; G = L * Z columns, those of layer 1, next to the image, first.

        Args:
            x: images, uint8 in 0..255 or floats in [0, 1], [B, H, W, C].
            noise: from `noise`, [S, B, L, h, w, Z].
            analytic_kl: changes nothing: the KL is sampled, as the authors do.
        """
        x, num_samples = to_unit_interval(x), tf.shape(noise)[0]
        h, _, kl = self._infer(x, noise)
        p = self._likelihood_distribution(h)
        log_lik = split_samples(p.log_prob(tile_samples(x, num_samples)), num_samples)  # [S, B]
        kl = tf.concat([tf.reduce_sum(part, axis=[1, 2]) for part in kl], axis=-1)  # [S*B, L*Z]
        return Terms(log_lik, split_samples(kl, num_samples))

    def _infer(self, x, noise):
        """Returns h_0 [S*B, h, w, F], and two lists over the layers: z and its sampled KL, [S*B, h, w, Z] each."""
        num_samples = tf.shape(noise)[0]
        noise = tf.unstack(merge_samples(noise), axis=1)  # L times [S*B, h, w, Z]
        h = self.stem(centred(x))
        if self.blocks[0].draws_upwards:
            h = tile_samples(h, num_samples)
        upward = []
        for block, draw in zip(self.blocks, noise, strict=True):
            h, features = block.up(h, draw)
            upward.append(features)
        h, latents, kl = self._top(tf.shape(noise[0])[0]), [], []
        for block, features, draw in reversed(list(zip(self.blocks, upward, noise, strict=True))):
            h, z, kl_of_layer = block.down(h, features, draw)
            latents.insert(0, z)
            kl.insert(0, kl_of_layer)
        return h, latents, kl

    def encode(self, x):
        """Returns the latents of images at zero noise, layer by layer, [B, L, h, w, Z]."""
        x = to_unit_interval(x)
        _, latents, _ = self._infer(x, tf.zeros(tf.stack([1, tf.shape(x)[0], *self.latent_shape])))
        return tf.stack(latents, axis=1)

    def decode(self, z):
        """Returns E[x | z], images [B, H, W, C] with values in [0, 1], for latents [B, L, h, w, Z]."""
        h = self._top(tf.shape(z)[0])
        for block, z_of_layer in reversed(list(zip(self.blocks, tf.unstack(z, axis=1), strict=True))):
            h = block.decode(h, z_of_layer)
        return self._likelihood_distribution(h).mean()

    def generated(self, noise):
        """Returns p(x | z) at the z that noise, from `noise(1, B)`, gives in the prior: batch shape [B]."""
        noise = noise[0]
        h = self._top(tf.shape(noise)[0])
        for block, draw in reversed(list(zip(self.blocks, tf.unstack(noise, axis=1), strict=True))):
            h, _ = block.generate(h, draw)
        return self._likelihood_distribution(h)

    def kl_per_dimension(self, x):
        """Returns None: the layers' posteriors depend on each other's draws."""
        del x

    def kl_per_layer(self, terms):
        """Returns the KL of each layer of latents, layer 1 first, [S, B, L], nats."""
        return tf.reduce_sum(tf.reshape(terms.kl, [*tf.unstack(tf.shape(terms.kl)[:2]), self.num_blocks, -1]), axis=-1)

    def update_metrics(self, measured):
        kl = self.kl_per_layer(measured["terms"])  # [S, B, L]
        kl = tf.unstack(tf.reduce_mean(kl, axis=0), num=self.num_blocks, axis=1)  # L times [B]
        names = [tracker.name for tracker in self.kl_of_layer_trackers]
        return super().update_metrics({**measured, **dict(zip(names, kl, strict=True))})

    def _top(self, batch_size):
        """Returns h_L, the learned vector at each place of the map, [B, h, w, F]."""
        _, height, width, _ = self.latent_shape
        top = tf.cast(self.top, self.compute_dtype)
        return tf.broadcast_to(top, tf.stack([batch_size, height, width, top.shape[0]]))

    def _likelihood_distribution(self, h):
        loc = tf.cast(self.head(tf.nn.elu(h)), tf.float32)  # [B, H, W, C]
        return tfd.Independent(DiscretizedLogistic(loc, tf.convert_to_tensor(self.log_scale), self.edges), 3)


def centred(x):
    """[0, 1] -> the centres of 256 bins in [-1/2, 1/2], the scale of the likelihood's locations."""
    return (255.0 * x + 0.5) / 256.0 - 0.5
