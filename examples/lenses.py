"""Learning by composition: Iris with a rule of shoal.optim, and a majority gate over bits."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_iris

from shoal.lenses import cross_entropy, dense, step, whole_loss, xor
from shoal.lenses.boolean import bits, difference, lookup
from shoal.optim import Adam


def main() -> None:
    flowers = load_iris()
    x = torch.tensor(flowers.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor(flowers.target)

    learner = step(dense(4, 3), cross_entropy, Adam.rule(lr=0.05))
    here = learner.start
    for _ in range(200):
        here = learner(here, x, F.one_hot(y, 3).float())
    right = (learner.predict(here, x).argmax(1) == y).double().mean()
    print(f"Iris: accuracy {right:.3f} of the training set")

    words = bits(3)
    majority = words.sum(1, keepdim=True) >= 2
    learner = step(lookup(3), difference, xor, whole_loss)
    here = learner.start
    for word, bit in zip(words, majority, strict=True):
        here = learner(here, word, bit)
    right = (learner.predict(here, words) == majority).sum()
    print(f"majority of three: {right} of 8")


if __name__ == "__main__":
    main()
