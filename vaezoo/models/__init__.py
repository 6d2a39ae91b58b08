"""The zoo's systems, one file each."""

from vaezoo.models.vae import VAE

# The names that a config's [model] may use.
MODELS = {"vae": VAE}
