"""The parts of a run on a GPU, and of the dry run, which takes the same way on a CPU with tiny sizes."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from .requirements import dependencies
from .running import Part
from .source import TREE, kernels

DATA = TREE / "data" / "trees"
DATA_FILES = tuple(
    DATA / name for name in ("annotations/train.json", "annotations/val.json", "mobilenetv2_imagenet.pt")
)
DATA_REMEDY = "`rst data trees --output data/trees` makes it, where there is a network"
TIMELINES = ("RPN, all anchors", "R-CNN, 80 classes", "LVIS R-CNN", "ATSS / PAA")  # of bench/shapes.py

TESTING = ("torch", "triton", "numpy", "pytest")
TIMING = (*TESTING, "torchvision", "pytest-benchmark", "matplotlib", "pillow", "pyyaml")

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
CHECKPOINT = "{folder}/run/checkpoints/best.ckpt"
TRAIN = ("train", "--config", "configs/sample/rs_faster_rcnn_mobilenetv2.yaml", "--output", "{folder}/run")
EVALUATE = ("evaluate", "--checkpoint", CHECKPOINT, "--output", "{folder}/evaluation")
RST = (sys.executable, "-m", "rst.cli.main")
# Heads in three parts by words of their names. What a goal names comes first
FIRST, SECOND = "ATSS", "RPN or R-CNN"
HEADS = {
    "heads-1": FIRST,
    "heads-2": f"({SECOND}) and not ({FIRST})",
    "heads-3": f"not ({FIRST}) and not ({SECOND})",
}
SANITIZER = "compute-sanitizer"
WORKERS = 12  # processes of the tests; each takes about half a GiB of the GPU


def _bench(name: str, title: str, *arguments: str, packages: tuple[str, ...] = TIMING) -> Part:
    command = (*PYTEST, *arguments, "-q", "--benchmark-json", "{folder}/benchmarks.json")
    # the session's own report would only take time: there is one of all parts
    return Part(name, title, (command,), packages, variables={"BENCH_REPORT": "no"})


def _tests(*arguments: str) -> tuple[str, ...]:
    # beside xdist, pytest-benchmark warns that it is off, and a warning is an error here
    return (*PYTEST, "-p", "no:benchmark", "-q", "--durations=10", *arguments)


def _timeline(*shapes: str) -> Part:
    command = (sys.executable, "-m", "gpu_run.timeline", "{folder}", *shapes)
    return Part("timeline", "time line of one forward and backward", (command,), TIMING)


def _training(title: str, files: tuple[Path, ...], *commands: tuple[str, ...]) -> Part:
    return Part("training", title, tuple((*RST, *command) for command in commands), dependencies(), files)


def _sanitizer(tool: str) -> Part:
    # torch's own kernels are not what is checked
    ours = [word for names in kernels().values() for name in names for word in ("--kernel-name", f"kns={name}")]
    script = (sys.executable, "-m", "gpu_run.sanitized")
    command = (SANITIZER, "--tool", tool, *ours, "--error-exitcode", "9", *script)
    # without the allocator's cache, an access beyond a tensor is one beyond its memory
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {}
    return Part(f"sanitizer-{tool}", f"{SANITIZER}, {tool}", (command,), TESTING, tool=SANITIZER, variables=variables)


def gpu_parts() -> list[Part]:
    """All parts, in the order in which they run."""
    several = ("-n", str(min(os.cpu_count() or 1, WORKERS)), "--dist", "worksteal") if find_spec("xdist") else ()
    kernels = (
        "tests/kernels",
        "tests/detectors/test_transfers.py",
        "--ignore",
        "tests/kernels/offline",
        "--ignore",
        "tests/kernels/test_group.py",
    )
    heads = [
        _bench(name, f"losses: heads, {words}", "bench/test_losses.py", "-k", f"test_head and ({words})")
        for name, words in HEADS.items()
    ]
    short = ("bench/test_losses.py", "bench/test_segments.py", "bench/test_cuda_graph.py", "-k")
    return [
        Part(
            "tests", "tests of the kernels", (_tests(*kernels, *several, "-k", "not cpu"),), (*TESTING, "torchvision")
        ),
        heads[0],
        _bench("short", "segments, CUDA graphs, equal bits", *short, "not test_head and not test_against"),
        _timeline(*TIMELINES),
        _bench("steps", "training steps", "bench/test_training_step.py"),
        *heads[1:],
        _bench("sweeps", "losses: growing numbers", "bench/test_losses.py", "-k", "test_against"),
        _bench("static", "static evidence", "bench/test_static_evidence.py"),
        _bench(
            "evaluation",
            "evaluation and the check of data",
            "bench/test_evaluation.py",
            "bench/test_data_check.py",
            packages=(*TIMING, *dependencies()),
        ),
        _training(
            "training of the demo, evaluation, drawings",
            DATA_FILES,
            (*TRAIN, "--trainer.accelerator", "gpu", "--trainer.devices", "1"),
            EVALUATE,
            ("predict", "--checkpoint", CHECKPOINT, "data/trees/val", "--output", "{folder}/drawings"),
        ),
        _sanitizer("memcheck"),
        _sanitizer("racecheck"),
    ]


def dry_parts() -> list[Part]:
    """Parts of the same kinds for a CPU: minutes become seconds, and no figure means anything."""
    shapes = "{folder}/shapes"
    data = {"train_annotations": "annotations/train.json", "train_images": "train"}
    data |= {"val_annotations": "annotations/val.json", "val_images": "val"}
    places = (word for key, path in data.items() for word in (f"--data.{key}", f"{shapes}/{path}"))
    small = ("--model.num_classes", "6", "--model.backbone.weights", "null")
    small += ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3")
    return [
        Part("tests", "tests of the kernels", (_tests("tests/kernels/test_structure.py"),), TESTING),
        _bench(
            "heads-1",
            "losses: one head, one point of a plot",
            "bench/test_losses.py",
            "-k",
            "(DETR and early and (sparse or bucketed)) or (negatives and 10000-rst and sparse)",
        ),
        _timeline("DETR decoder"),
        _training(
            "three steps of the demo, evaluation",
            (),
            ("data", "shapes", "--output", shapes, "--train", "12", "--val", "2"),
            (*TRAIN, *places, *small),
            EVALUATE,
        ),
        _sanitizer("memcheck"),
    ]
