"""What `rst train` says of its detector's anchors before the first step."""

from typing import Any

from rst.cli.progress import bar
from rst.data import DetectionData
from rst.data.check.reach import measure_reach
from rst.data.check.reach_text import describe_reach, warn_of_reach
from rst.data.check.seen import Objects


def say_reach(model: Any, data: DetectionData) -> None:
    """Print which objects of the training set the anchors reach, and a warning where they miss many of a class.

    The random numbers of the training are left alone.
    """
    assert data.train_set is not None  # after `setup`
    objects = Objects.of_table(data.train_set.table)
    with bar("anchors", 0):
        reach = measure_reach(model, data.train_transforms, objects)
    if reach is None:
        return
    lines = describe_reach(reach)
    for missed, advice in warn_of_reach(reach):
        lines += [f"warning: {data.train_files[0]}: {missed}", f"warning: {advice}"]
    print("\n".join(f"rst: {line.replace('anchors    ', 'anchors: ')}" for line in lines), flush=True)
