"""Every recipe still computes what it did when its values were stored (tests/support/recipe_cases.py, at c241d21).

Those of ranking losses were stored again with faster, then with exact torch passes, which moved them by at most 1e-6
relatively.

On a machine whose arithmetic is that of the one that stored them, each bit of losses, statistics, gradients and
detections must be the same. Elsewhere convolutions and exponentials round otherwise, and values may differ a little.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from detector_cases import Case
from recipe_cases import cases, platform, run, stored_in


@pytest.fixture(scope="module")
def stored(tree: Path) -> dict[str, dict[str, np.ndarray]]:
    """By the name of the file."""
    return {file.name: dict(np.load(file)) for file in (tree / "tests/data").glob("*_steps.npz")}


@pytest.mark.parametrize(("name", "case"), cases().items(), ids=str)
def test_a_step_and_an_evaluation_are_the_stored_ones(stored: dict[str, dict[str, np.ndarray]], name: str, case: Case):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        of_detector = stored[stored_in(case.detector)]
        same_platform = np.array_equal(platform(), of_detector["platform"])
        values = run(case)
    finally:
        torch.set_num_threads(threads)
    expected = {key.partition(" | ")[2]: value for key, value in of_detector.items() if key.startswith(f"{name} | ")}
    assert values.keys() == expected.keys()
    for key, value in values.items():
        if same_platform:
            assert value.tobytes() == expected[key].tobytes(), key
        elif "digest" not in key:
            np.testing.assert_allclose(value, expected[key], rtol=1e-2, atol=1e-4, equal_nan=True, err_msg=key)
