# make demo   installs the package in .venv, trains a small task and draws its learning curve
# make test   installs what the tests need in .venv and runs every check
# make extras tries each extra alone in an environment of its own
# make lint, make docs and make clean do one part each
# make dist   builds what is released; SB3_EZV2_REPOSITORY=https://... is the address that the README's links lead to
# make oldest tries the lower bounds of setup.py with the oldest versions that they allow
#
# Only python3 (3.10 or newer) with its venv module is needed. PYTHON names another interpreter, VENV another folder
# for the environment, PIP_FLAGS further options for pip, PYTEST_FLAGS further options for pytest.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python
# One file of tests to a process; some of them train, so that more than four would need much memory.
TESTS = $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_FLAGS)
PIP_INSTALL := $(RUN) -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
INSTALL_INPUTS := setup.py pyproject.toml constraints.txt sb3_ezv2/version.txt
CHECKED := $(wildcard sb3_ezv2 tests examples benchmarks experiments docs/conf.py docs/formulas.py setup.py)
# Tests of compiled functions that are repeated without compilation, to measure their coverage (see pyproject.toml).
KERNEL_TESTS := tests/search/test_search.py tests/search/test_search_by_hand.py tests/search/test_sequential_halving.py tests/replay/test_sum_tree.py \
	tests/replay/test_buffer.py tests/replay/test_frame_storage.py tests/planning/test_fused_search.py

# Of make oldest: options for uv, such as --find-links; and tests of every part, few enough to be waited for.
UV_FLAGS ?=
OLDEST_VENV ?= .venv-oldest
OLDEST_TESTS := tests/envs tests/replay/test_buffer.py tests/planning/test_fused_search.py tests/learning/test_losses.py \
	tests/algorithm/test_determinism.py tests/zoo/test_zoo.py tests/zoo/test_zoo_plots.py

.PHONY: demo test extras lint docs dist oldest clean FORCE
.DELETE_ON_ERROR:

# The networks are small: with few cores a second thread costs more time than it saves, on a busy machine many times so.
demo test extras oldest: export OMP_NUM_THREADS ?= 1

demo: $(VENV)/.installed
	$(RUN) examples/demo.py

test: lint docs
	rm -f .coverage
	NUMBA_DISABLE_JIT=1 $(TESTS) -q --cov --cov-report= --cov-fail-under=0 $(KERNEL_TESTS)
	$(TESTS) --cov --cov-append --cov-report=term

extras: $(VENV)/.installed-tests
	-$(PIP_INSTALL) -q uv  # makes the environments much faster than pip, which does where it cannot be installed
	$(RUN) -m pytest -n auto --maxprocesses 2 --dist load -m extras $(PYTEST_FLAGS) tests/project/test_extras.py

lint: $(VENV)/.installed-tests
	$(RUN) -m ruff check $(CHECKED)
	$(RUN) -m ruff format --check $(CHECKED)
	$(RUN) -m mypy

docs: $(VENV)/.installed-tests
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

dist: $(VENV)/.installed-tests
	rm -rf dist
	$(RUN) -c "import setuptools.build_meta as backend; backend.build_sdist('dist')"
	$(RUN) -c "import setuptools.build_meta as backend; backend.build_wheel('dist')"

oldest: $(VENV)/.created
	$(PIP_INSTALL) -q uv
	$(BIN)/uv pip compile -q --resolution lowest-direct $(UV_FLAGS) setup.py --extra tests --extra docs \
		-o $(VENV)/oldest.txt
	$(BIN)/uv venv -q --clear --python $(RUN) $(OLDEST_VENV)
	$(BIN)/uv pip install -q --python $(OLDEST_VENV)/bin/python $(UV_FLAGS) -r $(VENV)/oldest.txt
	PYTHONPATH=$(CURDIR) $(OLDEST_VENV)/bin/python -m pytest -q -p no:cacheprovider $(PYTEST_FLAGS) $(OLDEST_TESTS)

clean:
	rm -rf .venv .venv-oldest build dist sb3_ezv2.egg-info docs/_build demo htmlcov .coverage
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sb3_ezv2 tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose interpreter or pip no longer works (interrupted, moved, Python updated) is made afresh.
ifneq ($(shell $(RUN) -m pip --version >/dev/null 2>&1 && echo works),works)
$(VENV)/.created: FORCE
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@
else
$(VENV)/.created:
	touch $@
endif

$(VENV)/.installed: $(VENV)/.created $(INSTALL_INPUTS)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-tests: $(VENV)/.created $(INSTALL_INPUTS)
	$(PIP_INSTALL) -e '.[tests,docs]'
	touch $@ $(VENV)/.installed
