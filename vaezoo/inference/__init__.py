"""Inference on arrays and callables: no Keras model in, none out."""
