"""What `fit`, `evaluate` and `predict` are given: checked before Keras sees it."""

import keras


class CheckedInputs(keras.Model):
    """A model whose `domain` and `example_shape` say which examples are legal."""

    def fit(self, x=None, *args, validation_data=None, **kwargs):
        """Trains, as `keras.Model.fit` does; an array `x` is checked whole, a dataset's first batch is."""
        self.domain.check("x", x, self.example_shape)
        if self.initialized is not None and not self.initialized.numpy():
            self.initialize(first_examples(x, self.initial_images))
        if validation_data is not None:
            held_out = validation_data[0] if isinstance(validation_data, (tuple, list)) else validation_data
            self.domain.check("validation_data", held_out, self.example_shape)
        return super().fit(x, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Measures, as `keras.Model.evaluate` does."""
        self.domain.check("x", x, self.example_shape)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """Calls the model on batches, as `keras.Model.predict` does."""
        self.domain.check("x", x, self.example_shape)
        return super().predict(x, *args, **kwargs)

    def examples_of(self, data):
        """Returns the examples x of a batch: x, or (x, y), of which y is ignored."""
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError("`sample_weight` must be None: a likelihood has no weights. Received a tensor.")
        if x.shape.rank is not None and tuple(x.shape[1:]) != self.example_shape:
            raise ValueError(
                f"`x` must have shape [batch, {', '.join(map(str, self.example_shape))}]. Received: {x.shape}"
            )
        return x


def first_examples(x, most):
    """Returns a first batch, of `most` examples at most, of what `fit` takes: arrays, or a `tf.data.Dataset`.

    A dataset's elements are x, (x, y), or ((x_labelled, y), x).
    """
    if hasattr(x, "element_spec"):
        x = next(iter(x))
        while isinstance(x, tuple):
            x = x[1] if isinstance(x[0], tuple) else x[0]
    if not hasattr(x, "shape"):
        raise ValueError(f"`x` must be images or a tf.data.Dataset; else call `initialize` before. Received: {type(x)}")
    return x[:most]
