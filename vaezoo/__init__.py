"""A zoo of published variational autoencoders as Keras models."""

__version__ = "0.1.0"
