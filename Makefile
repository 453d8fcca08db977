# make run: the whole workflow with the default config. make test: the test suite.
# Both make a virtual environment in .venv first. PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The first installation shows its downloads. A later one, which may change one package, only errors.
PIP_INSTALL = pip install --disable-pip-version-check $(if $(wildcard .venv/installed*),--quiet)
# A file's tests share costly fixtures, so they stay in one process. Those that last longest are first.
WORKERS = 3
SPREAD = -p no:randomly --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: run test test-numeric test-ci test-slow lint generated docs

run: .venv/installed
	snakemake --cores all

test: .venv/installed-dev lint
	pytest -m "not ci and not slow" $(SPREAD)

# What is computed, as other processors compute it: AS='ATEN_CPU_CAPABILITY=default', for one.
test-numeric: .venv/installed-dev
	env $(AS) pytest -m "numeric and not ci and not slow" $(SPREAD)

test-ci test-slow: WORKERS = 2

# What must also pass before a change lands: kills, launches of several processes, every backbone.
test-ci: .venv/installed-slow
	pytest -m ci $(SPREAD)

# What must also pass before a release: conda, Slurm, real models, the documents' commands.
test-slow: .venv/installed-slow
	pytest -m slow $(SPREAD)

lint: .venv/installed-dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	lint-imports
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml

# Files that are written from others; a test compares them.
generated: .venv/installed-dev
	python tools/write_envs.py
	python -m tools.write_config_docs
	python -m tools.write_versions

# The documents as a site in build/site. A link that leads nowhere is an error.
docs: .venv/installed-docs
	mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt pyproject.toml .venv/bin/python
	$(PIP_INSTALL) -r requirements.txt --editable .
	touch $@

.venv/installed-dev: requirements.txt pyproject.toml requirements-dev.txt .venv/bin/python
	$(PIP_INSTALL) -r requirements-dev.txt --editable ".[peft]"
	touch $@ .venv/installed

.venv/installed-slow: .venv/installed-dev requirements-slurm.txt requirements-slow.txt
	$(PIP_INSTALL) -r requirements-slow.txt --editable ".[all]"
	touch $@

.venv/installed-docs: requirements-docs.txt .venv/bin/python
	$(PIP_INSTALL) -r requirements-docs.txt
	touch $@
