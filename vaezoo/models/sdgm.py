"""The skip deep generative model, SDGM: the ADGM with its auxiliary variable in the generative model.

L. Maaloe, C. K. Sonderby, S. K. Sonderby, O. Winther, "Auxiliary deep generative models" (2016), section 2.4.

    p(y) = 1/K,  p(z) = N(z; 0, I),  p(a | y, z) = N(a; .),  p(x | a, y, z) = Bernoulli or Gaussian

q is that of the ADGM, (7)-(9). Equation (25) prints p(a | x, y, z); section 2.4 and the experiments have p(a | y, z).

    a [S, B, A], y [C, 1, 1, K], z [C, S, B, D] -> features [C, S, B, F] -> log p(x | a, y, z) [C, S, B]
"""

import keras

from vaezoo.models.adgm import ADGM


@keras.saving.register_keras_serializable(package="vaezoo")
class SDGM(ADGM):
    """The skip deep generative model; arguments as those of `ADGM`."""

    DECODER_INPUTS = ("a", "y", "z")

    def features(self, y, z, a):
        return self.decoder(self.decoder.project(a=a) + self.decoder.project(y=y) + self.decoder.project(z=z))
