# Everything on a machine with Python >= 3.11, git and make:
#
#   make demo          a video of every kind from the tiny trained model, into demo/
#   make web           a page in the browser where noise per frame is dragged, with the tiny model
#   make tiny-world    trains that model from nothing: minutes on a GPU, a night on a laptop; goes on when interrupted
#   make tiny-fvdm     trains a tiny FVDM of six classes and makes a clip of every kind: minutes on two cores
#   make experiments   repeats the papers' experiments with it: over an hour, goes on when interrupted
#   make experiments-quick  proves that they run
#   make test          the suite, with the PyTorch peers
#   make test-long     whole runs, many in processes of their own
#   make web-test      the page in a headless Chromium (apt-get install chromium)
#   make train-debug   real clips -> LoRA -> Diffusers with a tiny model, killed once on the way
#   make lint          ruff and pyright
#   make test-newest   most of it without PyTorch on Python 3.12 with the newest jax, if there is one
#   make docs          the pages of docs/ as a site, into site/
#   make mutants       breaks the code in one place after another and lists what no test notices; hours,
#                      goes on when interrupted; ROOM=pusa_jax/diffusion/flow.py one file, SAMPLE=100 a part,
#                      HAND=1 those of tests/mutants/by_hand.toml
#   make clean         removes the environments made here
#
# Each target makes the environment it needs and refreshes it when pyproject.toml changes.
# PYTHON=... and PYTHON312=... choose the interpreters, WORKERS=... the number of test processes.

VENV ?= .venv
VENV312 ?= .venv-newest
VENVDOCS ?= .venv-docs
VENVWEB ?= .venv-web
WORKERS ?= 2

# $(call first,CANDIDATES,CONDITION ON sys): the first that runs, fits, and can make an environment.
first = $(shell for p in $(1); do "$$p" -c "import ensurepip, sys, venv; sys.exit(not ($(2)))" \
	>/dev/null 2>&1 && echo "$$p" && break; done)
PYENV = $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/$(1).*/bin/python)

PYTEST = $(VENV)/bin/python -m pytest -rs -n $(WORKERS) --dist loadfile

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo web web-test tiny-world tiny-fvdm experiments experiments-quick test test-long train-debug lint test-newest docs mutants clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/demo.stamp
	$(VENV)/bin/pusa-jax demo --output demo
	@echo 'next: . $(VENV)/bin/activate, then pusa-jax t2v --prompt "a red circle moves right on black"'

web:
	@$(MAKE) --no-print-directory VENV=$(VENVWEB) $(VENVWEB)/web.stamp
	$(VENVWEB)/bin/pusa-jax web

web-test:
	@$(MAKE) --no-print-directory VENV=$(VENVWEB) $(VENVWEB)/web-test.stamp
	$(VENVWEB)/bin/python -m pytest -rs -n 0 -m "not slow" tests/web

tiny-world: $(VENV)/test.stamp
	$(VENV)/bin/python -m experiments.tiny_world --workdir runs/tiny-world

tiny-fvdm: $(VENV)/test.stamp
	$(VENV)/bin/python -m experiments.tiny_fvdm --output runs/tiny-fvdm

experiments: $(VENV)/test.stamp
	$(VENV)/bin/python -m experiments.tiny

# Compiling is most of this; unoptimised programs compile faster.
experiments-quick: $(VENV)/test.stamp
	XLA_FLAGS=--xla_backend_optimization_level=0 $(VENV)/bin/python -m experiments.tiny --quick

test: $(VENV)/test.stamp
	$(PYTEST) -m "not long and not slow"

test-long: $(VENV)/test.stamp
	$(PYTEST) -m "long and not slow"

train-debug: $(VENV)/test.stamp
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" experiments/train_debug.sh runs/train-debug

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# The bundled recordings alone, so that this lane proves a fresh clone by itself.
test-newest:
	@python="$(or $(PYTHON312),$(call first,python3.12 $(call PYENV,3.12),sys.hexversion >> 16 == 0x30C))"; \
	if [ -z "$$python" ]; then \
	  echo "left out: no Python 3.12 found (PYTHON312=... names one)"; \
	else \
	  $(MAKE) --no-print-directory VENV=$(VENV312) PYTHON="$$python" $(VENV312)/test-jax.stamp && \
	  $(VENV312)/bin/python -m pytest -rs -n $(WORKERS) --dist loadfile -m "not torch and not slow and not long" --golden-dir tests/golden; \
	fi

docs:
	@$(MAKE) --no-print-directory VENV=$(VENVDOCS) $(VENVDOCS)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(VENVDOCS)/bin/mkdocs build --strict

# Not part of the checks: a percentage to look at, not a limit to hold.
mutants: $(VENV)/mutants.stamp
	$(VENV)/bin/python tests/mutants --workers $(WORKERS) $(if $(ROOM),--room $(ROOM)) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(HAND),--by-hand)

clean:
	rm -rf $(VENV) $(VENV312) $(VENVDOCS) $(VENVWEB)

$(VENV)/%.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV), for a minute or more"
	@while sleep 5; do printf ". "; done & beat=$$!; trap "kill $$beat" EXIT; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$*]" && echo
	@touch $@

$(VENV)/bin/python:
	@python="$(or $(PYTHON),$(call first,python3.11 python3.12 python3.13 python3 python \
	  $(call PYENV,3.11) $(call PYENV,3.12),sys.hexversion >= 0x30B0000))"; \
	if [ -z "$$python" ]; then \
	  echo "no Python >= 3.11 with its venv module found; install one or say make PYTHON=..." >&2; exit 1; \
	fi; \
	"$$python" -m venv $(VENV)
