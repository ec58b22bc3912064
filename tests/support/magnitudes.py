"""Rankings of every magnitude that a number can have: logits, their distances, and delta.

M  logits
"""

import random

import torch
from rank_sort_cases import Ranking, random_ranking
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max
KINDS = ("scaled", "shifted", "of all magnitudes", "in clusters", "with an outlier", "with extremes")
DELTAS = (0.5, 0.0, 1e-20, 1e-12, 1e-8, 1e-3, 4.0, 1e8, 1e16, 1e20, None)  # None: of the magnitude of the logits


def ranking_of_magnitude(seed: int, limit: float = LARGEST) -> Ranking:
    """A random ranking whose finite logits lie within ±`limit`; the kind and delta follow from the seed."""
    draw = random.Random(seed)
    size, ties = draw.choice([8, 60, 300]), draw.choice([0, 0, 0.25])
    positives = draw.randint(1, max(size // 4, 2))
    ranking = random_ranking(seed, size, positives, 0.0, ties=ties, lift=draw.choice([0.0, 0.5, 3.0]))
    kind, magnitude = draw.choice(KINDS), 10.0 ** draw.uniform(-12, 38)
    delta = draw.choice(DELTAS)
    if delta is None:
        delta = min(max(magnitude * 10 ** draw.uniform(-9, 1), 1e-20), 1e20)
    logits = _logits(kind, ranking.logits.double(), magnitude, draw)
    return Ranking(logits.clamp(-limit, limit).float(), ranking.targets, delta)


def _logits(kind: str, logits: Tensor, magnitude: float, draw: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    if kind == "scaled":
        return logits * magnitude
    if kind == "shifted":
        return logits + magnitude * draw.choice([-1, 1])
    if kind == "of all magnitudes":
        exponents = torch.rand(len(logits), generator=generator, dtype=torch.float64) * 76 - 38
        return logits.sign() * 10**exponents
    if kind == "in clusters":
        centres = torch.randn(draw.choice([2, 5, 20]), generator=generator, dtype=torch.float64) * magnitude
        chosen = torch.randint(len(centres), logits.shape, generator=generator)
        return centres[chosen] + logits * draw.choice([0.0, 1.0])
    if kind == "with an outlier":
        return logits.index_fill(0, torch.tensor(draw.randrange(len(logits))), magnitude * draw.choice([-1, 1]))
    special = torch.tensor([LARGEST, -LARGEST, 0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0], dtype=torch.float64)
    chosen = torch.randint(4 * len(special), logits.shape, generator=generator)
    return torch.where(chosen < len(special), special[chosen % len(special)], logits)
