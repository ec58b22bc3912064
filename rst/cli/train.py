"""`rst train`: train a detector, or go on with a run that was stopped."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rst.cli.loading import load_training
from rst.cli.outputs import refuse_inputs
from rst.cli.parsers import command_parser, wants_help

if TYPE_CHECKING:  # importing it takes a while that --help should not
    from jsonargparse import Namespace

EPILOG = """\
the experiment:
  --config FILE                  in YAML; see configs/
  --print_config                 print the resolved configuration, without training

often overridden:
  --data.train_annotations FILE  --data.train_images DIR    COCO annotations and images to train on
  --data.val_annotations FILE    --data.val_images DIR      the same for the validation
  --data.images_per_batch N      images per process and iteration
  --data.workers N               loader processes per training process
  --model.num_classes N          categories in the annotations
  --optimizer.lr X               learning rate; scale it linearly with the images per iteration
  --ema_decay 0.999              evaluate and keep averaged weights
  --seed N                       another seed, another run

often overridden, of Lightning's Trainer:
  --trainer.max_epochs N             length of the training (also set --schedule.milestones)
  --trainer.devices N                processes: GPUs, or CPU processes with --trainer.accelerator cpu
  --trainer.num_nodes N              machines
  --trainer.precision bf16-mixed     mixed precision
  --trainer.accumulate_grad_batches N    iterations per optimiser step
  --trainer.gradient_clip_val X      clip the gradient's norm
  --trainer.limit_train_batches N    only so many batches per epoch, to try things out

examples:
  rst train --config configs/sample/rs_faster_rcnn_mobilenetv2.yaml --output runs/trees
  rst train --config configs/coco/rs_faster_rcnn_r50_fpn_1x.yaml --trainer.devices 8 --data.images_per_batch 2
  rst train --resume runs/trees
"""


def main(argv: list[str]) -> int:
    parser = command_parser(
        "train",
        "--config FILE [--output RUN] [--KEY VALUE ...]\n--resume RUN [--KEY VALUE ...]",
        "Train a detector as a configuration file says. Every key of the file can be overridden on the command line.",
        EPILOG,
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="RUN",
        help="folder for checkpoints, logs and curves (default: runs/ and the file's name)",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="continue the run in this folder, exactly where its last checkpoint was saved, or from a checkpoint file "
        "of it; settings come from RUN/config.yaml",
    )
    parser.add_argument("--help-all", action="store_true", help="all settings, with types and defaults")
    if wants_help(parser, argv):
        return 2
    options, settings = parser.parse_known_args(argv)
    if options.help_all:
        load_training()
        from rst.cli.config import build_parser

        build_parser().print_help()
        return 0
    return _train(options, settings)


def _train(options: argparse.Namespace, arguments: list[str]) -> int:
    load_training()
    from lightning.pytorch import seed_everything

    from rst.cli.config import dump_config, instantiate, parse_config, trainer_options
    from rst.evaluation import format_table
    from rst.evaluation.report import SHAPES
    from rst.training import ConfigError, DetectionTraining, RunFolder, build_trainer, find_checkpoint, load_checkpoint
    from rst.training.curves import draw_curves
    from rst.training.heads import write_heads

    if options.resume is not None:
        if options.output is not None or any(argument.split("=")[0] == "--config" for argument in arguments):
            raise ConfigError("--resume takes configuration and folder from the run: leave --config and --output out")
        checkpoint = find_checkpoint(options.resume)
        folder = RunFolder(options.resume) if options.resume.is_dir() else RunFolder.of_checkpoint(checkpoint)
        if not folder.config.is_file():
            raise ConfigError(f"{folder.config}: no such file; is {folder.path} the folder of a run?")
        first_step = load_checkpoint(checkpoint)["global_step"]
        parser, settings = parse_config(arguments, folder.config)
    else:
        checkpoint, first_step = None, 0
        parser, settings = parse_config(arguments)
        folder = RunFolder(options.output or Path("runs") / _name(settings))
        images = [settings.data.train_images, settings.data.val_images]
        refuse_inputs("--output", folder.path, files={}, writes=[folder.config], images=images)
        if _is_first_process():
            folder.require_new()

    seed_everything(settings.seed, verbose=False)
    built = instantiate(parser, settings)
    config = dump_config(parser, settings)
    built.data.setup("fit")
    module = DetectionTraining(
        built.model,
        built.optimizer,
        built.schedule,
        annotations=settings.data.val_annotations,
        class_names=built.data.class_names,
        category_ids=built.data.category_ids,
        config=config,
        seed=settings.seed,
    )
    monitor = built.checkpoints.monitor or module.main_metric
    checkpoints = replace(built.checkpoints, monitor=monitor)
    trainer = build_trainer(folder, checkpoints, built.ema_decay, trainer_options(built), first_step)
    if _is_first_process():
        folder.store_config(config, first_step)
        write_heads(folder.path, getattr(built.model, "heads", {}))
        state = f"continuing {folder.path} at step {first_step}" if checkpoint else f"training in {folder.path}"
        print(f"rst: {state}" + f" on {trainer.world_size} processes" * (trainer.world_size > 1), flush=True)
    try:
        trainer.fit(module, datamodule=built.data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"interrupted; continue with: rst train --resume {folder.path}") from None
    if trainer.is_global_zero:
        draw_curves(folder.path, folder.curves)
        for iou_type, metrics in module.metrics.items():
            print(f"{SHAPES[iou_type]}:\n{format_table(metrics)}" if len(module.metrics) > 1 else format_table(metrics))
        print(f"rst: done; checkpoints in {folder.checkpoints}, curves in {folder.curves}")
    return 0


def _name(settings: "Namespace") -> str:
    """The default name of a run: its configuration file's."""
    return Path(settings.config[0].relative if settings.config else "run").stem


def _is_first_process() -> bool:
    """Whether this is the first process of its run: launchers set these variables for all others."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)
