"""The zoo's systems, one file each."""

from vaezoo.models.conv_vae import ConvVAE
from vaezoo.models.resnet_vae import ResNetVAE
from vaezoo.models.vae import VAE

# The names that a config's [model] may use.
MODELS = {"vae": VAE, "conv_vae": ConvVAE, "resnet_vae": ResNetVAE}
