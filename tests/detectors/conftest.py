"""What the detector tests share."""

import pytest
from detector_cases import Batch, objects_batch


@pytest.fixture
def batch() -> Batch:
    """Two images of different sizes, one with two objects and one with one."""
    return objects_batch()
