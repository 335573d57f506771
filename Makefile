# Each target makes what it needs: `make serve` and `make test` work on a fresh clone with Python 3.11, make and gcc.
PYTHON ?= python3
VENV ?= .venv
SPIKESEG_PORT ?= 8000

PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test lint audit format clean

serve: $(VENV)/serve.done
	SPIKESEG_PORT=$(SPIKESEG_PORT) $(VENV)/bin/python -m service

test: $(VENV)/dev.done lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/dev.done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/bandit --quiet --recursive --configfile pyproject.toml service models clients

# Known weaknesses of what is installed; needs the network.
audit: $(VENV)/dev.done
	$(VENV)/bin/pip-audit --skip-editable

format: $(VENV)/dev.done
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/serve.done: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[serve,clients]'
	touch $@

$(VENV)/dev.done: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	# Its harness needs neither numba nor torchaudio, which it would draw in, and a torch of its own with them.
	$(PIP) --no-deps neurobench==2.3.0 snntorch==1.0.0
	# A program of its own in the tests, without its maps and windows: they would put another OpenCV over ours.
	$(PIP) --no-deps MAVProxy==1.8.75
	touch $@ $(VENV)/serve.done

clean:
	rm -rf $(VENV) build dist *.egg-info
