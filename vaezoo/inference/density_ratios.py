"""Log-ratios of densities by classification: a net that tells two kinds of draws apart learns their log-ratio."""

import tensorflow as tf


def contrast(net, real, fake):
    """Returns a net at real and at fake inputs, [B] each, and its loss, [B]: the negative of (5.2).

    Both go through the net at once, so that batch normalisation does to one what it does to the other.
    """
    size = tf.shape(real[0])[0]
    scores = net(*(tf.concat(pair, axis=0) for pair in zip(real, fake, strict=True)))
    of_real, of_fake = scores[:size], scores[size:]
    return of_real, of_fake, tf.nn.softplus(-of_real) + tf.nn.softplus(of_fake)


def unpaired(pairs):
    """Returns images and codes of pairs, [B, ...], so that no image has its own code: a draw of the marginals' product.

    They are there for the discriminator, and pass no gradient on. A replica takes the codes of its own share; an image
    that is alone in it keeps its own.
    """
    return tf.stop_gradient(pairs.x), tf.stop_gradient(tf.roll(pairs.z, 1, axis=0))
