"""COCO's run lengths, thousands at once: does each cover its image exactly?

pycocotools reads broken run lengths without complaint and leaves the pixels beyond the last run as they were in memory.

In the compressed form a number is groups of five bits, the lowest first, each a character from "0" on; the sixth bit
says that more follow, the fifth of the last group is the sign. From the fourth run on, a number is the difference to
the run two before.

    n  masks    L  characters    M  runs of all masks, end to end
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

CHUNK = 4096  # masks decoded at once: some ten MiB of temporary arrays
LONGEST = 6  # characters of a number: 2^30 pixels are more than any image has


def whole_masks(counts: Sequence[Any], pixels: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a mask's runs are not negative and add up to its image.

    Args:
        counts: n `counts`: texts (compressed) or lists of integers; anything else is not whole.
        pixels: (n,) height times width.
    """
    whole = np.zeros(len(counts), bool)
    for index, value in enumerate(counts):
        if isinstance(value, list):
            integral = set(map(type, value)) <= {int}
            whole[index] = integral and min(value, default=0) >= 0 and sum(value) == pixels[index]
    texts = np.array([index for index, value in enumerate(counts) if isinstance(value, str)], np.int64)
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        whole[part] = _whole_texts([counts[index] for index in part], np.asarray(pixels)[part])
    return whole


def _whole_texts(texts: list[str], pixels: np.ndarray) -> np.ndarray:
    """(n,) bool, for compressed run lengths."""
    lengths = np.array([len(text) for text in texts], np.int64)
    characters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8).astype(np.int64) - ord("0")
    owner = np.repeat(np.arange(len(texts)), lengths)  # (L,)
    whole = lengths > 0
    whole[owner[(characters < 0) | (characters > 63)]] = False
    last = characters & 32 == 0  # (L,): last character of a number
    whole[whole] &= last[(np.cumsum(lengths) - 1)[whole]]

    kept = whole[owner]  # of right texts only, so that no number reaches from one into the next
    characters, owner, last = characters[kept], owner[kept], last[kept]
    if not len(characters):
        return whole
    first = np.flatnonzero(np.append(True, last[:-1]))  # (M,): where each number begins
    digits = np.diff(np.append(first, len(characters)))
    whole[owner[first[digits > LONGEST]]] = False
    digits = digits.clip(max=LONGEST)
    place = (np.arange(len(characters)) - first[np.cumsum(np.append(0, last[:-1]))]).clip(max=LONGEST)
    numbers = np.add.reduceat((characters & 31) << 5 * place, first)
    numbers -= (characters[last] & 16) << 5 * digits - 4  # the sign bit stands for -2^(5 x digits)

    owner = owner[first]  # (M,)
    start = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))  # first number of each text
    count = np.diff(np.append(start, len(numbers)))
    index = np.arange(len(numbers)) - np.repeat(start, count)
    runs = np.where(index == 0, numbers, 0)
    for parity in (0, 1):  # runs 1, 3, 5, ... and runs 2, 4, 6, ... are sums of differences within their text
        chained = (index % 2 == parity) & (index > 0)
        chain = np.where(chained, numbers, 0)
        sums = np.cumsum(chain)
        sums -= np.repeat(sums[start] - chain[start], count)
        runs = np.where(chained, sums, runs)
    owners = owner[start]
    whole[owners] &= (np.minimum.reduceat(runs, start) >= 0) & (np.add.reduceat(runs, start) == pixels[owners])
    return whole
