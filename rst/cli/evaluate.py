"""`rst evaluate`: score a checkpoint on a data set."""

import argparse
import json
from pathlib import Path

HELP = """\
usage: rst evaluate --checkpoint FILE [--annotations FILE --images DIR] [--output DIR] [--KEY VALUE ...]

Score a checkpoint with the COCO metrics. Prints the table; writes detections.json (COCO results format) and
metrics.json.

where:
  --checkpoint FILE    a checkpoint of rst train, or the folder of a run (its best checkpoint)
  --annotations FILE   COCO annotations (default: the validation set of the run)
  --images DIR         their pictures
  --output DIR         folder for the two files (default: evaluation/ in the run's folder)
  --config FILE        the model's and data's settings (default: those stored with the checkpoint)

often overridden:
  --data.images_per_batch N  --data.workers N  --data.test_short_side PIXELS
  --trainer.devices N        --trainer.accelerator cpu   (default: one device, a GPU if there is one)
  --model.score_threshold X

example:
  rst evaluate --checkpoint runs/trees/checkpoints/best.ckpt
"""


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="rst evaluate", add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--config", type=Path)
    options, overrides = parser.parse_known_args(argv)
    return _evaluate(options, overrides)


def _evaluate(options: argparse.Namespace, overrides: list[str]) -> int:
    from lightning.pytorch import Trainer

    from rst.cli.trained import load_trained
    from rst.evaluation import format_table
    from rst.training import ConfigError, DetectionTraining
    from rst.training.callbacks import progress_bar
    from rst.training.run import quieten

    if (options.annotations is None) != (options.images is None):
        raise ConfigError("--annotations and --images belong together: give both or neither")
    if options.annotations is not None:
        overrides += ["--data.val_annotations", str(options.annotations), "--data.val_images", str(options.images)]
    # All of the data on one device of this machine, whatever the training had, unless the command line says otherwise.
    defaults = ["accelerator=auto", "devices=1", "num_nodes=1", "strategy=auto", "limit_val_batches=null"]
    overrides = [*(f"--trainer.{default}" for default in defaults), *overrides]
    trained = load_trained(options.checkpoint, options.config, overrides)
    data = trained.settings.data
    data.setup("validate")
    annotations = data.val_files[0]
    if trained.class_names and data.class_names != trained.class_names:
        raise ConfigError(
            f"{annotations}: its categories ({', '.join(data.class_names[:8])}) are not those of {trained.file} "
            f"({', '.join(trained.class_names[:8])})"
        )
    module = DetectionTraining(
        trained.model, annotations=annotations, class_names=data.class_names, category_ids=data.category_ids
    )
    quieten()
    chosen = ("accelerator", "strategy", "devices", "num_nodes", "precision", "limit_val_batches")
    trainer = Trainer(
        **{key: trained.settings.trainer[key] for key in chosen},
        logger=False,
        callbacks=[progress_bar()],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        output = options.output or trained.run / "evaluation"
        output.mkdir(parents=True, exist_ok=True)
        (output / "detections.json").write_text(json.dumps(module.results), encoding="utf-8")
        (output / "metrics.json").write_text(json.dumps(module.metrics, indent=2) + "\n", encoding="utf-8")
        print(format_table(module.metrics))
        print(
            f"rst: {len(module.results)} detections in {output / 'detections.json'}, metrics in metrics.json beside it"
        )
    return 0
