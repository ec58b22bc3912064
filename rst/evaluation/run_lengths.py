"""COCO's compressed run lengths, decoded by the thousand to see whether they are whole.

pycocotools reads broken run lengths without complaint and leaves the pixels beyond the last run as they were in memory.
`rst.data.masks` decodes one text in Python, which half a million detections cannot wait for.

Letters: n texts, L characters, M numbers.
"""

from collections.abc import Sequence

import numpy as np

CHUNK = 4096  # texts decoded at once: some ten MiB of temporary arrays
LONGEST = 6  # characters of a number; 2^30 pixels are more than any picture has


def first_broken(texts: Sequence[str], pixels: np.ndarray) -> int | None:
    """Index of the first text whose runs are not those of a mask of so many pixels; None if all are whole.

    Args:
        texts: n compressed run lengths.
        pixels: (n,) int64, height times width.
    """
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        whole = _whole(part, pixels[start : start + CHUNK])
        if not whole.all():
            return start + int(np.argmin(whole))
    return None


def _whole(texts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """(n,) bool.

    A number is groups of five bits, the lowest first, each a character from "0" on; the sixth bit says that more
    follow, the fifth of the last group is the sign. From the fourth run on, a number is the difference to the run two
    before.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    characters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8).astype(np.int64) - ord("0")
    owner = np.repeat(np.arange(len(texts)), lengths)  # (L,)
    whole = lengths > 0
    whole[owner[(characters < 0) | (characters > 63)]] = False
    last = characters & 32 == 0  # (L,) last character of a number
    ends = np.cumsum(lengths) - 1
    whole[whole] &= last[ends[whole]]

    # Only whole texts go on, so that no number reaches from one into the next.
    characters, owner, last = (values[whole[owner]] for values in (characters, owner, last))
    if not len(characters):
        return whole
    first = np.flatnonzero(np.append(True, last[:-1]))  # (M,) where each number begins
    digits = np.diff(np.append(first, len(characters)))
    place = np.arange(len(characters)) - np.repeat(first, digits)
    whole[owner[place >= LONGEST]] = False
    place = place.clip(max=LONGEST)
    numbers = np.add.reduceat((characters & 31) << 5 * place, first)
    numbers -= (characters[last] & 16) << (5 * place[last] + 1)  # the sign bit stands for -2^(5 x digits)

    owner = owner[first]  # (M,)
    start = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))  # first number of each text
    count = np.diff(np.append(start, len(numbers)))
    index = np.arange(len(numbers)) - np.repeat(start, count)
    runs = np.where(index == 0, numbers, 0)
    for parity in (0, 1):  # runs 1, 3, 5, ... and runs 2, 4, 6, ... are sums of differences within their text
        chain = np.where((index % 2 == parity) & (index > 0), numbers, 0)
        sums = np.cumsum(chain)
        sums -= np.repeat(sums[start] - chain[start], count)
        runs = np.where((index % 2 == parity) & (index > 0), sums, runs)
    owners = owner[start]
    whole[owners] &= (np.minimum.reduceat(runs, start) >= 0) & (np.add.reduceat(runs, start) == pixels[owners])
    return whole
