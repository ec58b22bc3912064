"""Which key was meant: by another tool's name for it, by its last part, by its words."""

from collections.abc import Iterable
from difflib import SequenceMatcher

# Names that other tools and habits have for a key. Underscores and case do not matter.
OTHER_NAMES = {
    "data.images_per_batch": "batch batch_size batchsize bs ims_per_batch images_per_gpu samples_per_gpu "
    "train_batch_size batch_size_per_gpu batch_size_per_device per_device_batch_size imgs_per_gpu minibatch",
    "data.workers": "num_workers n_workers nworkers workers_per_gpu dataloader_workers loader_workers num_proc",
    "data.short_sides": "image_size img_size imgsz size input_size min_size short_side shortest_edge scales scale "
    "resolution img_scale",
    "data.max_side": "max_size long_side longest_edge max_image_size",
    "data.flip": "fliplr hflip horizontal_flip flip_prob random_flip",
    "data.train_annotations": "annotations ann_file ann annotation_file train_ann train_json train_annotation dataset",
    "data.train_images": "images image_dir img_dir img_folder image_folder train_dir train_path train_folder",
    "data.val_annotations": "val_ann val_json val_annotation valid_annotations validation_annotations",
    "data.val_images": "val_dir val_path val_folder valid_images validation_images",
    "optimizer.lr": "learning_rate base_lr lr0 lrate learningrate rate step_size eta",
    "optimizer.momentum": "beta beta1 mom",
    "optimizer.weight_decay": "wd l2 decay weightdecay regularization",
    "schedule.warmup_iterations": "warmup warmup_steps warmup_iters num_warmup_steps warmup_epochs warm_up",
    "schedule.warmup_factor": "warmup_ratio warmup_start_factor",
    "schedule.milestones": "lr_steps lr_step lr_drop drop_epochs decay_epochs step",
    "schedule.gamma": "lr_gamma lr_factor decay_factor",
    "schedule.cosine_epochs": "cosine cosine_annealing t_max",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs nepochs max_epoch total_epochs",
    "trainer.max_steps": "steps iterations iters max_iter max_iters max_iterations num_steps total_steps",
    "trainer.devices": "gpus gpu num_gpus n_gpus ngpus gpu_ids gpu_id device num_devices nproc_per_node",
    "trainer.num_nodes": "nodes nnodes machines num_machines world_size",
    "trainer.precision": "amp fp16 bf16 half mixed_precision use_amp dtype",
    "trainer.gradient_clip_val": "grad_clip clip_grad gradient_clip clip_norm max_norm clip_grad_norm max_grad_norm",
    "trainer.accumulate_grad_batches": "accumulate accumulation accumulation_steps grad_accumulation "
    "gradient_accumulation_steps grad_accum accum_iter",
    "trainer.check_val_every_n_epoch": "eval_interval val_interval eval_every eval_period",
    "trainer.log_every_n_steps": "log_interval print_freq log_every log_period",
    "checkpoints.every_n_train_steps": "save_every checkpoint_every save_steps",
    "checkpoints.keep_every_n_epochs": "save_period checkpoint_period save_interval save_epochs keep_every",
    "checkpoints.monitor": "save_best metric best_metric metric_for_best_model",
    "ema_decay": "ema model_ema ema_momentum use_ema averaging",
    "seed": "random_seed manual_seed rng_seed random_state",
    "output": "out output_dir out_dir outdir work_dir save_dir run_dir log_dir logdir",
    "resume": "resume_from checkpoint ckpt ckpt_path resume_from_checkpoint restart auto_resume load_from",
    "num_classes": "classes nc n_classes number_of_classes nclasses class_count",
    "backbone.weights": "weights pretrained pretrained_weights init_weights init_checkpoint imagenet",
    "backbone.name": "backbone arch architecture encoder",
    "detections.score_threshold": "score_thresh score_thr conf conf_thres confidence threshold box_score_thresh",
    "detections.nms_iou": "nms nms_thresh nms_threshold iou_thres iou_threshold",
    "detections.limit": "max_det max_per_img detections_per_img max_detections top_k topk",
}
# The same for the options of commands that take a checkpoint, with underscores
OTHER_OPTIONS = {
    "threshold": "score_threshold score_thresh score_thr conf conf_thres confidence box_score_thresh min_score",
    "batch_size": "batch bs batchsize images_per_batch",
    "device": "devices gpu gpus gpu_id cuda accelerator",
    "checkpoint": "weights ckpt ckpt_path model resume load_from",
    "output": "out output_dir out_dir outdir save_dir work_dir",
    "annotations": "ann ann_file annotation_file json",
}


def _key_of(others: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", ""): key for key, names in others.items() for name in names.split()}


_KEY_OF, _OPTION_OF = _key_of(OTHER_NAMES), _key_of(OTHER_OPTIONS)
LEAST = 0.7  # similarity of the last parts, of 1


def nearest_option(unknown: str, options: Iterable[str]) -> str | None:
    """The option of a command that was probably meant, or None.

    Args:
        unknown: a key, dotted; a key of a section means no option.
        options: their names, with underscores.
    """
    options, name = list(options), unknown.lower().replace("-", "_")
    if "." in name:
        return None
    other = name.replace("_", "")
    if other in _OPTION_OF or other in _KEY_OF:  # another tool's name for a key is no misspelt option
        meant = _OPTION_OF.get(other)
        return meant if meant in options else None
    return nearest(unknown, options)


def nearest(unknown: str, known: Iterable[str]) -> str | None:
    """The known key that was probably meant, or None.

    Args:
        unknown: a key, dotted.
        known: the keys there are, dotted.
    """
    known = list(dict.fromkeys(known))
    *sections, leaf = unknown.lower().replace("-", "_").split(".")
    section = ".".join(sections)
    meant = _KEY_OF.get(leaf.replace("_", ""))
    if meant is not None:
        for key in known:
            if (key == meant or key.endswith(f".{meant}")) and key.rpartition(".")[2] != leaf:
                return key
    likeness = {key: _likeness(section, leaf, key) for key in known}
    best = max(known, key=lambda key: likeness[key], default=None)
    return best if best is not None and likeness[best] >= LEAST else None


def _likeness(section: str, leaf: str, key: str) -> float:
    """How near a key is: the likeness of the last parts, of 1, and up to 0.1 for that of the sections."""
    of_section, _, of_key = key.lower().rpartition(".")
    words, theirs = set(leaf.split("_")), set(of_key.split("_"))
    alike = SequenceMatcher(None, leaf, of_key).ratio()
    if words < theirs and max(map(len, words)) > 3:  # "warmup" of "warmup_factor"
        alike = max(alike, LEAST)
    if bool(section) != bool(of_section):  # --lr for --optimizer.lr; but model.pretrained is not trainer
        alike *= 0.9
    return alike + 0.1 * SequenceMatcher(None, section, of_section).ratio() if alike >= LEAST else 0.0
