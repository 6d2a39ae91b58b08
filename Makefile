# make demo   installs into .venv, then trains, measures, draws and exports a VAE on embedded data
# make test   installs into .venv, then runs what a change can break first: at most 12 minutes on 2 cores
# make test-all   every system, entry, format and kill loop: an hour
# make test-share SHARE=I/N   share I (from 0) of N of what `make test` leaves to `make test-all`
# make check  format, lint and the fast tests: before each commit

PYTHON ?= python3.11
VENV ?= .venv
LOCK ?= requirements.lock
export TF_CPP_MIN_LOG_LEVEL ?= 3
VAEZOO = $(VENV)/bin/vaezoo
DEMO = demo
# A process per core, because most of a test is tracing, which takes one; tests/conftest.py says what shares a process.
PYTEST = $(VENV)/bin/python -m pytest --numprocesses auto
SHARE ?= 0/6

.PHONY: install demo test test-all test-share check test-lowest lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(LOCK)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement $(LOCK)
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: install
	rm -rf $(DEMO)
	$(VAEZOO) train vae_digits --dir $(DEMO)/run
	$(VAEZOO) evaluate $(DEMO)/run --json $(DEMO)/figures.json
	$(VAEZOO) sample $(DEMO)/run --output $(DEMO)/samples.png
	$(VAEZOO) reconstruct $(DEMO)/run --output $(DEMO)/reconstructions.png
	$(VAEZOO) latents $(DEMO)/run --output $(DEMO)/latents.png
	$(VAEZOO) export $(DEMO)/run $(DEMO)/export
	@echo
	@echo "Trained weights, log, pictures per epoch:  $(DEMO)/run"
	@echo "Figures on the test images:                $(DEMO)/figures.json"
	@echo "Samples, reconstructions, latents:         $(DEMO)/samples.png $(DEMO)/reconstructions.png $(DEMO)/latents.png"
	@echo "SavedModel and LiteRT:                     $(DEMO)/export"

test: install
	$(PYTEST) -m "not rest"

test-all: install
	$(PYTEST)

test-share: install
	$(PYTEST) -m rest --share $(SHARE)

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(PYTEST) -m "not slow and not rest"

# The suite on the lowest versions that pyproject.toml admits, in a venv of its own.
test-lowest:
	$(MAKE) test VENV=.venv-lowest LOCK=requirements-lowest.txt

# Exact versions of what a fresh resolution of pyproject.toml gives.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet --editable . --group test
	.venv-lock/bin/python -m pip freeze --exclude-editable > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lowest .venv-lock demo
