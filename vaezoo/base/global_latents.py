"""Models with latents of the whole data set, such as weights with a posterior, and the number of its examples."""

import keras
import tensorflow as tf


class GlobalLatents(keras.Model):
    """A model that may have latents which all N examples of a data set share.

    The evidence of N examples holds the KL of such latents once, KL(q(w) || p(w)); a bound per example holds
    1 / N of it. A model's `terms` puts this share into `Terms.global_kl`, by `example_share`: the one place where the
    division happens, so that every bound, importance weight and export of `Terms` is in nats per example.

    Attributes:
        num_examples: float32 weight, N, which `fit` sets from its data; 0 until then. None of models without such
            latents.
    """

    num_examples = None

    def track_num_examples(self):
        """Adds the weight `num_examples`: a line in the constructor of a model with such latents."""
        self.num_examples = self.add_weight((), "zeros", "float32", trainable=False, name="num_examples")

    def example_share(self, global_kl):
        """Returns an example's share of a KL of the whole data set, `global_kl / num_examples`, nats."""
        return global_kl / tf.convert_to_tensor(self.num_examples)

    def fit(self, x=None, *args, **kwargs):
        """Trains, as `keras.Model.fit` does; sets `num_examples` from arrays or a dataset of known cardinality.

        A dataset's examples are counted as its batches times the size of the first one.

        Raises:
            ValueError: the model has `num_examples`, which the data do not tell, and nobody has set it.
        """
        if self.num_examples is not None:
            if (known := number_of_examples(x)) is not None:
                self.num_examples.assign(known)
            self._require_num_examples()
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Measures, as `keras.Model.evaluate` does; `num_examples` stays that of the training data.

        Raises:
            ValueError: the model has `num_examples`, and neither `fit` nor anybody else has set it.
        """
        if self.num_examples is not None:
            self._require_num_examples()
        return super().evaluate(x, *args, **kwargs)

    def _require_num_examples(self):
        if not self.num_examples.numpy():
            raise ValueError(
                "`num_examples` must be set where the data do not tell it: model.num_examples.assign(N), the number of "
                "training examples. Received: 0"
            )


def number_of_examples(x):
    """Returns how many examples there are in what `fit` takes, an array or a `tf.data.Dataset`; None if unknown."""
    if hasattr(x, "cardinality"):
        batches = int(x.cardinality())
        return None if batches < 0 else batches * len(tf.nest.flatten(next(iter(x)))[-1])
    return len(x) if hasattr(x, "shape") else None
