"""Spoilt image files: the check, training and `rst predict` say the same of each, by name, and none ends otherwise.

RST_SPOILT_IMAGES=10000 tries as many files; RST_SPOILT_SEED other ones.
"""

import json
import os
import warnings

import numpy as np
import pytest
from spoilt_images import HEIGHT, SOUND, SUFFIXES, WIDTH, sound_images, spoilt_images

from rst.data import CocoDetection, DataError
from rst.data.check import check_annotations
from rst.data.images import Decoding, read_image

COUNT = int(os.environ.get("RST_SPOILT_IMAGES", 310))
SEED = int(os.environ.get("RST_SPOILT_SEED", 0))
DECODING = {exif: Decoding(exif, max_pixels=4_000_000) for exif in ("upright", "stored")}
IMAGE_FAULTS = {"unreadable image file", "image file of another size"}


def write(folder, files, height=HEIGHT, width=WIDTH):
    """An annotation file for images of these contents."""
    images = []
    for number, (suffix, content) in enumerate(files, 1):
        name = f"{number:05d}.{suffix}"
        (folder / name).write_bytes(content)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    file = folder.with_suffix(".json")
    file.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "thing"}]}))
    return file


def faults_of(report):
    return {finding.id: finding for finding in report.findings if finding.kind in IMAGE_FAULTS}


def attempt(path, read):
    """The pixels, or what is said of the file, which names it."""
    try:
        return np.asarray(read()), ""
    except DataError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return None, message


@pytest.mark.parametrize("exif", DECODING)
def test_check_training_and_prediction_agree_on_every_spoilt_file(tmp_path, exif):
    folder, decoding = tmp_path / "images", DECODING[exif]
    folder.mkdir()
    file = write(folder, spoilt_images(COUNT, SEED))
    by_whole = faults_of(check_annotations(file, folder, decode=True, decoding=decoding))
    by_header = faults_of(check_annotations(file, folder, decoding=decoding))
    training = CocoDetection(file, folder, decoding=decoding)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about metadata
        for index, image_id in enumerate(training.image_ids):
            path = folder / f"{image_id:05d}.{SUFFIXES[SOUND[index % len(SOUND)][0]]}"
            seen, said = attempt(path, lambda index=index: training[index][0].permute(1, 2, 0))
            predicted, predicted_said = attempt(path, lambda path=path: read_image(path, decoding=decoding))
            fault = by_whole.get(image_id)
            assert (seen is None) == (fault is not None), f"check {fault}, training {said}"
            refused += seen is None
            if fault is not None:
                assert said.split(", ")[0] in fault.message, "another reason"
            if predicted is None:
                assert fault is not None
                assert fault.kind == "unreadable image file"
                assert predicted_said == said
            elif seen is None:
                assert fault is not None
                assert fault.kind == "image file of another size"
            elif predicted.shape == seen.shape:
                assert (predicted == seen).all(), path
            else:
                assert predicted.shape == (seen.shape[1], seen.shape[0], 3), "turned, where the size alone decides"
    assert set(by_header) <= set(by_whole), "headers say too much"
    assert COUNT / 10 < refused < COUNT, "spoilt too little, or too much"


def test_the_sound_files_are_sound(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    file = write(folder, sound_images(SEED))
    report = check_annotations(file, folder, decode=True)
    faults = faults_of(report)
    no_rule = {number for number, (_, mode, _) in enumerate(SOUND, 1) if mode in ("I", "F")}
    assert set(faults) == no_rule, [finding.message for finding in faults.values()]
    notes = " ".join(report.notes)
    assert "2 images are grey with 16 bits" in notes
    assert "4 images have several pages or frames" in notes
