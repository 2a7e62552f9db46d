"""Drawing sources that replay the ordinary global generators in the order of the published pipelines."""

import random

import numpy as np
import torch


class Torch:
    """torchvision's draws."""

    def uniform(self, low, high):
        return float(torch.empty(1).uniform_(low, high))

    def below(self, n):
        return int(torch.randint(0, n, (1,)))

    def chance(self, p):
        return bool(torch.rand(1) < p)

    def flip(self):
        return self.chance(0.5)

    def order(self):
        return tuple(torch.randperm(4).tolist())

    def block(self, width):
        return self


class Python:
    """`random` for everything, as AutoAugment's policy code does; the flip is torchvision's."""

    def uniform(self, low, high):
        return random.uniform(low, high)

    def below(self, n):
        return random.randint(0, n - 1)

    def chance(self, p):
        return random.random() < p

    def flip(self):
        return bool(torch.rand(1) < 0.5)

    def sign(self):
        return random.choice([-1, 1])

    def block(self, width):
        return self


class Timm(Python):
    """timm: operations from NumPy, everything else from `random`."""

    def chance(self, p):
        return not random.random() > p

    def sign(self):
        return -1 if random.random() > 0.5 else 1

    def gauss(self, mean, std):
        return random.gauss(mean, std)

    def picks(self, n, k):
        return np.random.choice(n, k).tolist()


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
