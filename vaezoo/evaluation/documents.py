"""Models of documents: perplexity and topics.

A model of bags gives all orders of a document's N words the same probability, and their number is the multinomial
coefficient N! / prod_v x_v!, so

    log p(w_1 .. w_N) = log p(x) - log N! + sum_v log x_v!,   perplexity = exp(- sum_n log p(words of n) / sum_n N_n)

over all documents n. It is that of a word; NVDM's is exp of the mean over documents of -log p / N (Miao et al.). A
Poisson model also has to tell the length: p(x | z) = Poisson(N; L) Multinomial(x; N, rates / L), where L is the sum of
the rates. That cost is in the figure, and is not in the perplexities of models of documents whose length is given.
"""

import numpy as np

from vaezoo import checks
from vaezoo.base.contracts import require
from vaezoo.numerics import log_orders, perplexity

__all__ = ["log_orders", "perplexity", "topics"]


def topics(model, words, num_words=10):
    """Returns what each value of z is about: the words whose rates grow by the largest factor from z = 0 to z_d = 1.

    Args:
        model: a `LatentVariableModel` of word counts.
        words: the V words.
        num_words: int, how many for each.

    Returns:
        A list of D lists of words, the largest factor first.

    Raises:
        ValueError: the model is not one of counts; an argument is not as described.
    """
    checks.positive_int("num_words", num_words)
    if not model.domain.of_words:
        raise ValueError(f"`model` must be a model of counts. Received: {type(model).__name__} of {model.domain.name}")
    require(model, "decode")
    if (len(words),) != model.example_shape:
        raise ValueError(f"`words` must hold one word per count, {model.example_shape[0]}. Received: {len(words)}")
    units = np.eye(model.latent_dim, dtype=np.float32).reshape(-1, *model.latent_shape)
    factors = np.asarray(model.decode(units)) / np.asarray(model.decode(np.zeros_like(units[:1])))  # [D, V]
    return [[words[v] for v in row[:num_words]] for row in np.argsort(-factors, axis=-1)]
