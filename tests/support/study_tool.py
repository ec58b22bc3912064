"""tools/study as a package that tests can import, and a stand-in for `rst train` that takes no time.

The stand-in keeps to what the study relies on: the run's folder, its metrics.csv and last.ckpt, --resume, exit codes,
and the last line of what it prints. Its setting "do" says what happens in the middle of it.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TREE = Path(__file__).resolve().parents[2]

TRAIN = """
import os, pathlib, sys, time

pairs = dict(text[2:].split("=", 1) for text in sys.argv[1:] if text.startswith("--") and "=" in text)
words = dict(zip(sys.argv[1:], sys.argv[2:]))
resumed = "--resume" in words
run = pathlib.Path(words["--resume" if resumed else "--output"])
checkpoint, note = run / "checkpoints" / "last.ckpt", run / "settings"
if resumed:
    pairs = dict(line.split("=", 1) for line in note.read_text().split())
elif run.exists():
    sys.exit("rst: the folder is not empty")
checkpoint.parent.mkdir(parents=True, exist_ok=True)
note.write_text("\\n".join(f"{key}={value}" for key, value in pairs.items()))
do, seed = pairs.get("do", "train"), int(pairs["seed"])
print("threads", os.environ["OMP_NUM_THREADS"], "resumed" if resumed else "new", flush=True)
aps = [0.1, 0.2 + 0.01 * seed]
if do == "refuse":
    sys.exit("rst: optimizer.lr must be above 0\\n")
if do == "zero":
    aps = [0.0, 0.0]
if do == "collapse" and seed == 1:
    aps = [0.1, 0.001]
rows = [f"{k},{k},{ap},{2 * ap},{ap / 2},{1 - ap},{7 - k},{3 + seed - k},0.5,2.0,0.5" for k, ap in enumerate(aps)]
names = "step,epoch,val/AP,val/AP50,val/AP75,val/oLRP,gradient_norm,balance_roi,spearman_roi,loss,loss_roi_rank"
(run / "metrics.csv").write_text("\\n".join([names, *rows, ""]))
if do == "diverge":
    print("rst: loss = nan, loss_roi_bbox = nan at step 7 (epoch 1; image ids 1). Usual remedies: ...")
    sys.exit(1)
if do == "wait" and not resumed:
    checkpoint.touch()
    time.sleep(60)
if do == "wait early" and not (run.parent / "seen").exists():
    (run.parent / "seen").touch()
    time.sleep(60)
"""


def load(name: str) -> ModuleType:
    """A module of tools/study: tests may not import tools by that name, which is no package of an install."""
    if "study" not in sys.modules:
        folder = TREE / "tools" / "study"
        spec = importlib.util.spec_from_file_location(
            "study", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["study"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"study.{name}")


def write_study(folder: Path, text: str) -> Path:
    """A study file with a configuration, CONFIG in its text, beside it."""
    config = folder / "config.yaml"
    config.write_text("seed: 0\n")
    file = folder / "study.yaml"
    file.write_text(text.replace("CONFIG", str(config)))
    return file
