"""Training steps of a detector and its baseline, one after the other in turns: their ratio without the clock's drift.

python bench/steps_in_turns.py [--steps N] [WORD ...]

`test_training_step.py` times all steps of one contender, then those of the next. On a machine whose speed changes from
minute to minute that moves the ratio by a fifth. Here both detectors are in memory, and each step of one is followed by
a step of the other; the ratio is the median of the pairs'. WORD: only settings with all of these words in their names.
"""

import argparse
from collections.abc import Callable
from statistics import median

from device import CLOCK, ON_GPU
from test_training_step import DETECTORS, RANKING, SETTINGS, Setting, training

WARM_UP = 3


def in_turns(setting: Setting, steps: int) -> tuple[float, float, float]:
    """Median seconds of a step with Rank & Sort and of the baseline's, and the median ratio of the pairs."""
    detector = DETECTORS[setting.detector]
    (ours,) = (each for each in detector.contenders.values() if each.arguments == RANKING and not each.loop)
    contenders = [training(detector, setting, each)[1] for each in (ours, detector.contenders[detector.baseline])]
    for step in contenders * WARM_UP:
        step()
    pairs = [[seconds(step) for step in contenders] for _ in range(steps)]
    first, second = zip(*pairs, strict=True)
    return median(first), median(second), median(one / other for one, other in pairs)


def seconds(step: Callable[[], None]) -> float:
    """Of one step."""
    begin = CLOCK()
    step()
    return CLOCK() - begin


def main() -> None:
    """Prints a row for each setting that runs here."""
    parser = argparse.ArgumentParser(description="Training steps of each detector and its baseline, in turns.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only settings with all of these words")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of each (default: 20)")
    given = parser.parse_args()
    print("| setting | Rank & Sort, ms | baseline, ms | ratio |\n|---|---|---|---|")
    for name, setting in SETTINGS.items():
        if (ON_GPU or not setting.gpu_only) and all(word in name for word in given.words):
            ours, baseline, ratio = in_turns(setting, given.steps)
            print(f"| {name} | {1e3 * ours:.0f} | {1e3 * baseline:.0f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
