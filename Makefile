# `make` alone lists the targets. Variables: PYTHON builds .venv; PIP_FLAGS, PYTEST_FLAGS, GPU_FLAGS and TRAIN_FLAGS (of
# the demos) are passed on, as in: make demo TRAIN_FLAGS="--trainer.max_epochs 4"
PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
GPU_FLAGS ?=
TRAIN_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --durations=10
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder # in tests/conftest.py's order
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install test lint format unit interpreter offline smoke \
  format-check ruff-check pyright demo demo-baseline demo-no-sorting demo-masks bench gpu demo-data kernel-package clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## build .venv with rst (editable) and the tools, if there is none or pyproject.toml has changed

# The stamp is written last, so the next make repeats an installation that was interrupted.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rst needs Python 3.11 or newer; $(PYTHON) is not: make install PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

# ---- checks: `make test` runs all of them, goes on after a failure and fails at the end ----

# The installation compiles no bytecode. What the tests import is compiled once, whatever the caller's environment says:
# each of the dozens of processes that they start would compile torch and Lightning again, for nine seconds.
test unit interpreter offline smoke: export PYTHONDONTWRITEBYTECODE :=

# What needs one core runs beside the tests, which need two; its output is printed after theirs.
BESIDE := format-check ruff-check pyright offline smoke
CHECKS := unit interpreter

# $(1): checks, run in this order; their results are lines of build/checks
define run_checks
for check in $(1); do \
  printf '\n======== make %s ========\n' "$$check"; \
  if $(MAKE) --no-print-directory "$$check"; then result=passed; else result=failed; fi; \
  echo "$$result: $$check" >> build/checks; \
done
endef

test: $(STAMP) ## every check below; each is a target of its own
	@mkdir -p build; rm -f build/checks; \
	{ $(call run_checks,$(BESIDE)); } > build/beside.log 2>&1 & \
	$(call run_checks,$(CHECKS)); \
	wait; cat build/beside.log; \
	printf '\n'; grep '^failed' build/checks; \
	failed=$$(grep -c '^failed' build/checks); \
	echo "checks: $$(grep -c '^passed' build/checks) passed, $$failed failed"; \
	[ "$$failed" = 0 ]

lint: $(STAMP) ## formatting, lint and types
	@$(MAKE) --no-print-directory --keep-going format-check ruff-check pyright

format: $(STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

format-check: $(STAMP)
	$(BIN)/ruff format --check

ruff-check: $(STAMP)
	$(BIN)/ruff check

pyright: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

unit: $(STAMP) ## pytest: all but the Triton kernels themselves
	env -u TRITON_INTERPRET OMP_NUM_THREADS=1 $(PYTEST) --ignore tests/kernels/offline $(IN_TWO) $(PYTEST_FLAGS)

interpreter: $(STAMP) ## the Triton kernels, interpreted on the CPU
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PYTEST) tests/kernels $(IN_TWO) $(PYTEST_FLAGS)

offline: $(STAMP) ## the Triton kernels, compiled for several GPUs; none is needed
	env -u TRITON_INTERPRET $(PYTEST) -s tests/kernels/offline $(PYTEST_FLAGS)

SMOKE := build/smoke
smoke: export OMP_NUM_THREADS := 1
smoke: $(STAMP) ## a short real run through the command line: data, training, resuming, evaluation, prediction
	rm -rf $(SMOKE)
	$(BIN)/rst data shapes --output $(SMOKE)/shapes --train 40 --val 6
	$(BIN)/rst train --config configs/sample/rs_faster_rcnn_mobilenetv2.yaml --output $(SMOKE)/run \
	  --data.train_annotations $(SMOKE)/shapes/annotations/train.json --data.train_images $(SMOKE)/shapes/train \
	  --data.val_annotations $(SMOKE)/shapes/annotations/val.json --data.val_images $(SMOKE)/shapes/val \
	  --model.num_classes 6 --model.backbone.weights null --trainer.max_epochs 1 --trainer.limit_train_batches 10
	$(BIN)/rst train --resume $(SMOKE)/run --trainer.max_epochs 2
	$(BIN)/rst evaluate --checkpoint $(SMOKE)/run/checkpoints/best.ckpt
	$(BIN)/rst predict --checkpoint $(SMOKE)/run $(SMOKE)/shapes/val --output $(SMOKE)/drawings --threshold 0.1
	test -s $(SMOKE)/run/evaluation/metrics.json
	test -s $(SMOKE)/run/curves.png
	test -s $(SMOKE)/drawings/predictions.json

# ---- the main job, on real photographs ----

# A run is never overwritten: it is moved to $(1)-previous, and the run that was there is deleted.
define set_aside
	@if [ -e $(1) ]; then rm -rf $(1)-previous && mv $(1) $(1)-previous && echo "the previous run is now $(1)-previous"; fi
endef

# $(1): config, $(2): run folder, $(3): lowest score to draw, about what oLRP recommends for this detector.
define demonstrate
	$(BIN)/rst data trees --output data/trees
	$(call set_aside,$(2))
	$(BIN)/rst train --config $(1) --output $(2) $(TRAIN_FLAGS)
	$(BIN)/rst evaluate --checkpoint $(2)/checkpoints/best.ckpt --output $(2)/evaluation
	$(BIN)/rst predict --checkpoint $(2)/checkpoints/best.ckpt data/trees/val --output $(2)/drawings \
	  --threshold $(3)
	@printf '\nDetections on the held-out tiles: %s/drawings\nLoss curves: %s/curves.png\n' $(2) $(2)
endef

demo: $(STAMP) ## train RS Faster R-CNN on tree crowns in aerial photographs, evaluate, draw: 6 to 8 minutes
	$(call demonstrate,configs/sample/rs_faster_rcnn_mobilenetv2.yaml,runs/demo,0.6)

demo-baseline: $(STAMP) ## the same detector with cross-entropy and a sampler
	$(call demonstrate,configs/sample/faster_rcnn_mobilenetv2.yaml,runs/demo-baseline,0.5)

demo-no-sorting: $(STAMP) ## the same detector without the sorting error; `rst plot` compares the two runs
	$(call demonstrate,configs/sample/rs_faster_rcnn_mobilenetv2_no_sorting.yaml,runs/demo-no-sorting,0.6)

MASKS := runs/demo-masks
SHAPES := data/shapes/annotations/val.json

# $(1): a run of a detector of masks
define evaluate_masks
	$(BIN)/rst evaluate --checkpoint $(1)/checkpoints/best.ckpt --output $(1)/evaluation
	$(BIN)/rst evaluate --detections $(1)/evaluation/detections.json --annotations $(SHAPES) --iou-type segm \
	  --output $(1)/evaluation/masks.json
endef

# The two trainings share the cores: one each is faster than two for one after the other.
demo-masks: export OMP_NUM_THREADS := 1
demo-masks: $(STAMP) demo-data ## train RS Mask R-CNN and its baseline on shapes with masks: 10 minutes at most
	$(BIN)/rst data shapes --output data/shapes --side 160
	$(call set_aside,$(MASKS))
	$(call set_aside,$(MASKS)-baseline)
	@mkdir -p build
	@$(BIN)/rst train --config configs/sample/mask_rcnn_mobilenetv2.yaml --output $(MASKS)-baseline $(TRAIN_FLAGS) \
	  > build/demo-masks-baseline.log 2>&1 & baseline=$$!; \
	trap "kill $$baseline; exit 130" INT TERM; \
	$(BIN)/rst train --config configs/sample/rs_mask_rcnn_mobilenetv2.yaml --output $(MASKS) $(TRAIN_FLAGS); ours=$$?; \
	wait $$baseline || { cat build/demo-masks-baseline.log; exit 1; }; exit $$ours
	$(call evaluate_masks,$(MASKS))
	$(call evaluate_masks,$(MASKS)-baseline)
	$(BIN)/rst predict --checkpoint $(MASKS)/checkpoints/best.ckpt data/shapes/val --output $(MASKS)/drawings \
	  --threshold 0.65
	@printf '\n'; $(BIN)/python tools/beside.py $(MASKS) $(MASKS)-baseline
	@printf '\nDetections with masks: %s/drawings\nLoss curves: %s/curves.png\n' $(MASKS) $(MASKS)

bench: $(STAMP) ## the losses beside their baselines, time and memory: a report in bench/results/
	@mkdir -p build
	$(BIN)/python -m pytest bench --benchmark-json build/benchmarks.json $(PYTEST_FLAGS)

# With PYTHON given, that environment is used as it is: nothing is built, installed or downloaded.
ifeq ($(origin PYTHON),file)
gpu: GPU_PYTHON := $(BIN)/python
gpu: $(STAMP) demo-data
else
gpu: GPU_PYTHON := $(PYTHON)
endif
gpu: ## on a GPU: tests, benchmarks, a training, a report; done parts are skipped (FRESH=1: none)
	PYTHONPATH="bench$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) -m gpu_run $(if $(FRESH),--fresh) $(GPU_FLAGS)

demo-data: $(STAMP)
	$(BIN)/rst data trees --output data/trees

kernel-package: $(STAMP) ## kernels/ as a package for Hugging Face's loader, in build/kernel-package/
	$(BIN)/python tools/kernel_package.py --output build/kernel-package

clean: ## remove .venv and what was built; keep data/ and runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .benchmarks rank_sort_toolkit.egg-info
