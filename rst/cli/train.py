"""`rst train`: train a detector, or go on with a run that was stopped."""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rst.cli.loading import load_training
from rst.cli.outputs import refuse_inputs
from rst.cli.parsers import command_parser, wants_help

if TYPE_CHECKING:  # importing it takes a while that --help should not
    from jsonargparse import ArgumentParser, Namespace

    from rst.training import RunFolder

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
    parser.add_argument("--print_config", action="store_true", help=argparse.SUPPRESS)
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


@dataclass(frozen=True)
class _Start:
    """Where a run begins.

    Attributes:
        folder: of the run.
        checkpoint: the file that it goes on from; None for a new run.
        content: of that file.
        parser, settings: the configuration.
        changes: settings that differ from the checkpoint's, key -> (before, now).
    """

    folder: "RunFolder"
    checkpoint: Path | None
    content: dict[str, Any]
    parser: "ArgumentParser"
    settings: "Namespace"
    config: str
    changes: dict[str, tuple[Any, Any]]

    @property
    def first_step(self) -> int:
        return self.content.get("global_step", 0)

    @property
    def greeting(self) -> str:
        name = self.folder.path
        return f"training in {name}" if self.checkpoint is None else f"continuing {name} at step {self.first_step}"


def _start(options: argparse.Namespace, arguments: list[str]) -> _Start:
    """Configuration and folder, checked; nothing is written."""
    from rst.cli.config import check_trainer, dump_config, parse_config
    from rst.training import ConfigError, RunFolder, find_checkpoint, load_checkpoint
    from rst.training.checkpoints import MODEL_RECORD
    from rst.training.resuming import refuse_changes

    if options.resume is None:
        parser, settings = parse_config(arguments)
        check_trainer(settings)
        folder = RunFolder(options.output or Path("runs") / _name(settings))
        images = [settings.data.train_images, settings.data.val_images]
        refuse_inputs("--output", folder.path, files={}, writes=[folder.config], images=images)
        return _Start(folder, None, {}, parser, settings, dump_config(parser, settings), {})
    if options.output is not None or any(argument.split("=")[0] == "--config" for argument in arguments):
        raise ConfigError("--resume takes configuration and folder from the run: leave --config and --output out")
    checkpoint = find_checkpoint(options.resume)
    folder = RunFolder(options.resume) if options.resume.is_dir() else RunFolder.of_checkpoint(checkpoint)
    if not folder.config.is_file():
        raise ConfigError(f"{folder.config}: no such file; is {folder.path} the folder of a run?")
    content = load_checkpoint(checkpoint)
    parser, settings = parse_config(arguments, folder.config)
    check_trainer(settings)
    config = dump_config(parser, settings)
    changes = refuse_changes(content.get(MODEL_RECORD, {}).get("config", ""), config, str(checkpoint))
    return _Start(folder, checkpoint, content, parser, settings, config, changes)


def _train(options: argparse.Namespace, arguments: list[str]) -> int:
    if _is_first_process() and not options.print_config and not sys.stderr.isatty():  # a terminal has a bar for it
        print("rst: loading torch and Lightning", flush=True)
    load_training()
    from lightning.pytorch import seed_everything

    from rst.cli.config import instantiate, trainer_options, without_pretraining
    from rst.cli.masks import check_masks
    from rst.cli.reach import say_reach
    from rst.evaluation import format_table
    from rst.evaluation.report import SHAPES
    from rst.training import DetectionTraining, build_trainer
    from rst.training.checkpoints import check_classes, check_fits
    from rst.training.curves import draw_curves
    from rst.training.monitors import check_monitors
    from rst.training.run_record import RunRecord

    start = _start(options, arguments)
    if options.print_config:
        print(start.config, end="")
        return 0
    folder, settings, resumed = start.folder, start.settings, start.checkpoint is not None
    if _is_first_process():
        (folder.require_writable if resumed else folder.require_new)()

    seed_everything(settings.seed, verbose=False)
    # a resumed run has its weights from the checkpoint: those that it began with need not be there
    built = instantiate(start.parser, without_pretraining(settings) if resumed else settings)
    check_masks(built.model, built.data)
    built.data.setup("fit")
    validates = settings.trainer.limit_val_batches != 0
    if validates:
        built.data.require_truth()
    module = DetectionTraining(
        built.model,
        built.optimizer,
        built.schedule,
        annotations=settings.data.val_annotations,
        class_names=built.data.class_names,
        category_ids=built.data.category_ids,
        config=start.config,
        seed=settings.seed,
    )
    if start.checkpoint is not None:
        check_fits(module.model, start.content, start.checkpoint)
        own = (module.class_names, module.category_ids)
        check_classes(start.content, *own, start.checkpoint, settings.data.train_annotations)
    if validates and _is_first_process():
        module.check_truth()
    check_monitors(
        built.checkpoints.monitor,
        built.trainer.callbacks,
        module.iou_types,
        settings.data.val_annotations,
        validates=validates,
    )
    if not resumed and _is_first_process():
        say_reach(built.model, built.data)
    checkpoints = replace(built.checkpoints, monitor=built.checkpoints.monitor or module.main_metric)
    heads = getattr(built.model, "heads", {})
    record = RunRecord(folder, start.config, heads, start.first_step, start.greeting)
    trainer = build_trainer(folder, checkpoints, built.ema_decay, trainer_options(built), start.first_step, record)
    try:
        trainer.fit(module, datamodule=built.data, ckpt_path=start.checkpoint, weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
        advice = f"continue with: rst train --resume {folder.path}"
        if not folder.last.is_file():
            advice = "no checkpoint was saved yet: --checkpoints.every_n_train_steps says how often one is"
        raise KeyboardInterrupt(f"interrupted; {advice}") from None
    if not record.written:
        return _without_a_step(start)
    if trainer.is_global_zero:
        curves = f", curves in {draw_curves(folder.path, folder.curves)}" if folder.metrics.is_file() else ""
        for iou_type, metrics in module.metrics.items():
            print(f"{SHAPES[iou_type]}:\n{format_table(metrics)}" if len(module.metrics) > 1 else format_table(metrics))
        print(f"rst: done; checkpoints in {folder.checkpoints}{curves}")
    return 0


def _without_a_step(start: _Start) -> int:
    """What is left to say where no batch was trained on: a run that is at its end already, or settings without one."""
    from rst.training import ConfigError

    options = start.settings.trainer
    end = f"trainer.max_epochs is {options.max_epochs}, trainer.max_steps {options.max_steps}"
    if start.checkpoint is None:
        raise ConfigError(f"these settings leave nothing to train: {end}, trainer.max_time {options.max_time}")
    text = f"{start.folder.path} is at its end, step {start.first_step}: {end}. Nothing was done"
    if start.changes:
        changed = ", ".join(key.replace("init_args.", "") for key in start.changes)
        raise ConfigError(f"{text}, and nothing of {changed} recorded; to go on, raise --trainer.max_epochs")
    print(f"rst: {text}; to go on, raise --trainer.max_epochs")
    return 0


def _name(settings: "Namespace") -> str:
    """The default name of a run: its configuration file's."""
    return Path(settings.config[0].relative if settings.config else "run").stem


def _is_first_process() -> bool:
    """Whether this is the first process of its run: launchers set these variables for all others."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)
