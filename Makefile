# Everything sets itself up: `make demo` and `make test` work from a bare clone.
#
# On Linux without a GPU, torch's CPU build is far smaller than the default one. Name an index
# that has it:  make demo TORCH_INDEX=https://…/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
INDEX := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.PHONY: demo serve test bench audit clean

demo: $(VENV)/installed
	$(BIN)/kinora animate examples/rocket.jpg --seed 0 -y -o out/rocket.mp4
	@echo "The video lies in $(CURDIR)/out/rocket.mp4"

serve: $(VENV)/installed-serve
	$(BIN)/kinora serve

# One thread a worker, or they would wait for one another; one worker more than two cores have, as
# the service's tests wait for other processes most of the time.
test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

bench: $(VENV)/installed-bench

# Known vulnerabilities of what constraints.txt pins; needs the internet, and nothing installed.
audit:
	$(PYTHON) -m tools.audit

# torch comes first and by itself, so that the index for it is asked for nothing else.
$(VENV)/torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Kinora needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch into $(VENV) (some minutes the first time)"
	$(PIP) $(INDEX) torch
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/installed-serve: $(VENV)/torch pyproject.toml constraints.txt
	$(PIP) -e '.[serve]'
	@touch $(VENV)/installed $@

$(VENV)/installed-test: $(VENV)/torch pyproject.toml constraints.txt
	$(PIP) -e '.[test]'
	@touch $(VENV)/installed $(VENV)/installed-serve $@

$(VENV)/installed-bench: $(VENV)/torch pyproject.toml constraints.txt
	$(PIP) -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV)
