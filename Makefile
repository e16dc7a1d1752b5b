# Two commands: `make train` and `make test`. Both set everything up in .venv first.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup train test lint docs lock clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(INSTALLED) ## create .venv with the locked dependencies and the package

# 3.12 where there is one, since it is tested most; 3.11 last, since it has an older JAX. Set PYTHON to choose another.
PYENV := "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions
CANDIDATES := python3.12 $(PYENV)/3.12.*/bin/python3 python3.13 $(PYENV)/3.13.*/bin/python3 python3 python3.11
$(INSTALLED): requirements.lock pyproject.toml
	@set -e; found=; \
	for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; \
	  then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "No Python 3.11 to 3.14 with venv was found$(if $(PYTHON), as PYTHON=$(PYTHON)); set PYTHON=/path/to/python3" >&2; exit 1; fi; \
	echo "Setting up $(VENV) with $$("$$found" --version), a few minutes the first time"; \
	"$$found" -m venv --clear $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
	touch $(INSTALLED)

train: setup ## train FP3O on SMAX 3m, evaluate it, and write runs/
	@$(BIN)/fp3o train smax-3m $(ARGS)

test: setup ## run the test suite, a process for each core
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: setup ## build the documentation into site/, and check its links
	@$(BIN)/python docs/build_site.py

lock: setup ## resolve the dependencies anew (needs uv)
	@uv pip compile --universal --python-version 3.11 --extra dev --no-header --no-annotate --quiet \
	  pyproject.toml -o requirements.lock
	@sed -i '1i # Locked dependencies for Python 3.11 to 3.14, CPU JAX, tests and lint included. Made by `make lock`.' requirements.lock

clean: ## remove .venv and caches
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis "$${XDG_CACHE_HOME:-$$HOME/.cache}/fp3o-jax/tests"
