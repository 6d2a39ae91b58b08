"""The zoo's systems, one file each."""

from vaezoo.base import objectives
from vaezoo.models.adgm import ADGM
from vaezoo.models.as_vae import ALI, ASVAE, SymmetricBound
from vaezoo.models.avae import AVAE
from vaezoo.models.conv_vae import ConvVAE
from vaezoo.models.m1 import M1
from vaezoo.models.m1m2 import M1M2
from vaezoo.models.m2 import M2
from vaezoo.models.resnet_vae import ResNetVAE
from vaezoo.models.sdgm import SDGM
from vaezoo.models.stein_vae import SemiSupervisedSteinVAE, Stein, SteinVAE
from vaezoo.models.vae import VAE

# The names that a config's [model] may use.
MODELS = {
    "vae": VAE,
    "conv_vae": ConvVAE,
    "resnet_vae": ResNetVAE,
    "m1": M1,
    "m2": M2,
    "m1m2": M1M2,
    "adgm": ADGM,
    "sdgm": SDGM,
    "avae": AVAE,
    "stein_vae": SteinVAE,
    "semi_supervised_stein_vae": SemiSupervisedSteinVAE,
    "as_vae": ASVAE,
}

# The names that a config's [objective] may use: the bounds, and the objectives that only one system has.
OBJECTIVES = {**objectives.OBJECTIVES, "stein": Stein, "as_vae": SymmetricBound, "ali": ALI}
