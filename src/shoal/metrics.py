"""Which way a metric is better: known by its name, so that everybody reads it alike."""

HIGHER = ("accuracy", "reward", "return", "score", "recall", "precision", "f1", "auc", "hit", "ndcg", "bleu")


def higher_is_better(name: str) -> bool:
    """Whether a larger value is a better one; of metrics not known by name the smaller is.

    >>> [higher_is_better(name) for name in ("test_accuracy", "loss", "perplexity")]
    [True, False, False]
    """
    return any(word in name for word in HIGHER)
