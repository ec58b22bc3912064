"""Spoilt annotation files: reading, checking and evaluating end with a fault by name or not at all, and soon.

RST_SPOILT_FILES=10000 tries as many files; RST_SPOILT_SEED other ones.
"""

import copy
import json
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import orjson
import pytest
from coco_files import Files

from rst.coco.masks import encode_mask
from rst.data import CocoDetection, DataError
from rst.data.check import check_annotations
from rst.evaluation import evaluate

COUNT = int(os.environ.get("RST_SPOILT_FILES", 150))
SEED = int(os.environ.get("RST_SPOILT_SEED", 0))
LONGEST = 60  # seconds for one file, which takes milliseconds: more is an endless loop, or a size taken at its word
MASK = np.zeros((50, 30), bool)
MASK[3:9, 4:20] = True
DEEP = "lists within each other, as many as orjson takes"  # put in when written
ODD = [
    DEEP,
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e-320, float("nan"), float("inf"), 2**31, 2**63, -(2**63)),
    *(
        2**64,
        2**70,
        10**400,
        "",
        "1",
        "a.png",
        "../a.png",
        "a\0b",
        "\ud800",
        "x" * 5000,
        [],
        [[]],
        [None],
        [[[]]],
        {},
        [1, 2],
    ),
    *([1, 2, 3, 4], [1e308] * 4, ["1"] * 4, [[1, 2, 3, 4, 5, 6]], [[1e300] * 6], [[-5, -5, 1e9, -5, 1e9, 1e9]]),
    *({"size": [50, 30], "counts": [1500]}, {"size": [50, 30], "counts": "~~~~"}, {"counts": [2**62], "size": [1, 2]}),
    *({"size": [2**31, 2**31], "counts": [2**62]}, {"size": [50, 30], "counts": [1] * 1500}, {"id": 1}, [{"id": 1}]),
]


def places(value, path=()) -> Iterator[tuple]:
    """The paths to everything in a JSON value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def spoil(content, g):
    """A change of one place: another value, none, twice, or that of another place."""
    paths = list(places(content))
    path = paths[1 + g.integers(len(paths) - 1)]
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    way, key = g.integers(8), path[-1]
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif way == 2:
        other = content
        for step in paths[g.integers(1, len(paths))]:
            other = other[step]
        owner[key] = copy.deepcopy(other)
    else:
        owner[key] = copy.deepcopy(ODD[g.integers(len(ODD))])


def spoil_bytes(text: bytes, g) -> bytes:
    data = bytearray(text)
    for _ in range(g.integers(1, 4)):
        start = int(g.integers(len(data)))
        way = g.integers(3)
        if way == 0:
            data[start] = g.integers(256)
        elif way == 1:
            del data[start : start + int(g.integers(1, 20))]
        else:
            data[start:start] = bytes(g.choice(list(b'[]{}",:0-e\xff'), 2).tolist())
    return bytes(data)


def spoilt_annotations(count, seed, content) -> Iterator[bytes]:
    for number in range(count):
        g = np.random.default_rng([seed, number])
        spoilt = copy.deepcopy(content)
        for _ in range(g.integers(1, 4)):
            if isinstance(spoilt, dict) and spoilt:
                spoil(spoilt, g)
        text = json.dumps(spoilt).replace(json.dumps(DEEP), "[" * 1000 + "]" * 1000).encode()
        yield spoil_bytes(text, g) if number % 4 == 0 else text


@contextmanager
def alarm(what):
    """Ends what does not end."""

    def stop(*_):
        raise TimeoutError(f"{what}: no end after {LONGEST} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture
def files(tmp_path):
    files = Files(tmp_path)
    files.content["annotations"][0]["segmentation"] = encode_mask(MASK)
    files.content["annotations"][3]["segmentation"] = {"size": [50, 30], "counts": [100, 500, 900]}
    for entry in files.content["annotations"]:
        entry["area"] = 30.0
    files.read()
    return files


def refuses(read, file, number):
    """Whether `read` ends with a DataError that names the file; any other end fails the test."""
    try:
        read()
    except DataError as error:
        message = str(error)
    else:
        return False
    message.encode("utf-8", "backslashreplace")
    assert str(file.parent) in message, number
    return True


def test_spoilt_annotations_end_with_a_fault_or_are_read(files):
    refused = 0
    results = [{"image_id": 7, "category_id": 4, "bbox": [5, 6, 10, 20], "score": 0.5}]
    for number, text in enumerate(spoilt_annotations(COUNT, SEED, files.content)):
        files.annotations.write_bytes(text)
        with alarm(f"file {number} of seed {SEED}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # data warnings
            by_way = {}
            for masks in (False, True):

                def train(masks=masks):
                    data = CocoDetection(files.annotations, files.images, masks=masks, faulty_boxes="leave_out")
                    for index in range(len(data)):
                        data[index]

                by_way[masks] = refuses(train, files.annotations, number)
                report = check_annotations(files.annotations, files.images, masks=masks, leave_out=True, decode=True)
                orjson.dumps(report.as_dict(), default=str)
                if by_way[masks]:
                    assert report.of_level("error"), f"file {number}: training refuses what the check does not find"
                refused += by_way[masks]
            for iou_type in ("bbox", "segm"):
                refuses(
                    lambda iou_type=iou_type: evaluate(
                        files.annotations, results if iou_type == "bbox" else [], iou_type
                    ),
                    files.annotations,
                    number,
                )
    assert COUNT / 5 < refused < 2 * COUNT, "spoilt too little, or too much"
