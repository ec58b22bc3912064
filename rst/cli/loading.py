"""The imports that take seconds: torch, torchvision and Lightning."""

import importlib

from rst.coco.fields import without_collector


def load_training() -> None:
    """Import what training needs, a tenth faster than an import statement does.

    Python's garbage collector would walk over a million new objects again and again, and free none of them.
    """
    with without_collector():
        importlib.import_module("rst.cli.config")
