# make run: the whole workflow with the default config. make test: the test suite.
# Both make a virtual environment in .venv first. PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# uv reads no settings of pip. These constraints may name the builds of torch that are at hand.
PIP_CONSTRAINT ?= $(shell pip config list 2>/dev/null | sed -n "s/^global\.constraint='\(.*\)'$$/\1/p")
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
# Without bytecode each process would compile all that it imports. Many containers set this.
unexport PYTHONDONTWRITEBYTECODE
# The versions are those of the lock. uv also compares the hashes. pip, which installs where uv cannot,
# would then ask for torch's hashes too, but the machine chooses its build. Older ones know no groups.
install = uv pip install --python .venv/bin/python --constraints requirements.lock \
	$(addprefix --constraints ,$(PIP_CONSTRAINT)) $(packages) || { \
	pip install --quiet "pip>=25.1" && \
	sed 's/ \\$$//; / --hash/d' requirements.lock | pip install --constraint /dev/stdin $(packages); }
# A file's tests share costly fixtures, so they stay in one process. Those that last longest are first.
WORKERS = 3
SPREAD = -p no:randomly --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

GPU = build/emulated_gpu
TORCH_FOR_CUDA = torch===2.15.0
BESIDE_LIBRARY = accelerate datasets jinja2 pandas peft scipy snakemake  # what its tests import
WITH_GPU = tests/emulated_gpu/run pytest -p no:randomly tests/emulated_gpu

.PHONY: run test test-quick test-numeric test-ci test-slow test-gpu test-newest lint generated lock docs

run: .venv/installed
	@echo "The demonstration takes about 2 minutes on two cores of an Intel Xeon; what is made stays."
	snakemake --cores all
	@echo "Its cost: .venv/bin/xft plan --config config.yaml. Next: mine.yaml for your model (README.md)"
	@echo "    .venv/bin/snakemake --cores all --configfile mine.yaml"

# The style is checked beside the tests, which leave a core idle until their imports are done.
test: .venv/installed-dev
	$(MAKE) --jobs 2 lint test-quick

test-quick: .venv/installed-dev
	pytest -m "not ci and not slow" $(SPREAD)

# What is computed, as other processors compute it: AS='ATEN_CPU_CAPABILITY=default', for one.
test-numeric: .venv/installed-dev
	env $(AS) pytest -m "numeric and not ci and not slow" $(SPREAD)

test-slow: WORKERS = 2

# What must also pass before a change lands: kills, launches of several processes, every backbone.
test-ci: .venv/installed-slow
	pytest -m ci $(SPREAD)

# What must also pass before a release: conda, Slurm, real models, the documents' commands.
test-slow: .venv/installed-slow
	pytest -m slow $(SPREAD)
	tests/emulated_gpu/if_there $(MAKE) test-gpu

# torch's code for CUDA without a GPU, as an H100 and as an A100 (tests/emulated_gpu/README.md).
test-gpu: $(GPU)/libemulatedgpu.so
	EMULATED_GPU_CAPABILITY=9.0 $(WITH_GPU)
	EMULATED_GPU_CAPABILITY=8.0 $(WITH_GPU)

# The library with the newest packages that its ranges allow, as pip would install it without the lock.
test-newest: .venv/bin/python
	$(PYTHON) -m venv --clear build/newest
	uv pip install --python build/newest/bin/python --group dev --editable . $(BESIDE_LIBRARY)
	build/newest/bin/pytest -m "not ci and not slow" $(SPREAD) tests/modeling tests/checkpoints

lint: .venv/installed-dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	lint-imports
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml

# Files that are written from others; a test compares them. Code is not accepted here, but by
# `python -m tools.write_versions` alone.
generated: .venv/installed-dev
	python tools/write_envs.py
	python -m tools.write_config_docs

# All packages with their hashes, but torch, what only torch needs, and setuptools, of which some
# versions of torch need an old one. This asks the package index.
lock: .venv/bin/python
	printf 'torch\nsetuptools\n' | uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --excludes /dev/stdin --all-extras \
		--output-file requirements.lock pyproject.toml --group slow --group docs

# The documents as a site in build/site. A link that leads nowhere is an error.
docs: .venv/installed-docs
	mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv
	-pip install --disable-pip-version-check --quiet uv==0.13.9

.venv/installed: packages = --editable ".[workflow]"
.venv/installed: requirements.lock pyproject.toml .venv/bin/python
	$(install)
	touch $@

.venv/installed-dev: packages = --group dev --editable ".[workflow,peft]"
.venv/installed-dev: requirements.lock pyproject.toml .venv/bin/python
	$(install)
	touch $@ .venv/installed

# DeepSpeed's sources get a fixed time: what was compiled for this path then stays good.
.venv/installed-slow: packages = --group slow --editable ".[all]"
.venv/installed-slow: .venv/installed-dev
	$(install)
	find .venv/lib/python*/site-packages/deepspeed/ops/csrc -exec touch -t 202001010000 {} +
	touch $@

# PyPI's torch is that for CUDA. Other links may hold one for CPUs, and so are not read.
$(GPU)/installed: packages = --group dev --group trainers --editable ".[workflow,deepspeed,peft]" \
	--editable tests/emulated_gpu/start $(TORCH_FOR_CUDA) nvidia-cuda-crt nvidia-cuda-cccl
$(GPU)/installed: requirements.lock pyproject.toml tests/emulated_gpu/start/pyproject.toml .venv/bin/python
	$(PYTHON) -m venv $(GPU)/venv
	UV_FIND_LINKS= uv pip install --python $(GPU)/venv/bin/python --constraints requirements.lock $(packages)
	touch $@

$(GPU)/libemulatedgpu.so: $(GPU)/installed $(wildcard tests/emulated_gpu/cuda/*) tests/emulated_gpu/build.py
	$(GPU)/venv/bin/python tests/emulated_gpu/build.py $(GPU)

.venv/installed-docs: packages = --group docs
.venv/installed-docs: requirements.lock pyproject.toml .venv/bin/python
	$(install)
	touch $@
