# `make demo` runs the main job, `make check` every test but the long ones of `make check-long`, `make quick` what a change is tried with first,
# `make bench` the benchmarks (small variants).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo check quick check-long lint bench weights clean

demo: .venv/.ready
	$(BIN)/cristae demo --out cristae-demo

check: lint
	$(BIN)/pytest -q -n 2

# The digests of what every stage gives, and public names: a minute and a half
quick: lint
	$(BIN)/pytest -q -n 2 tests/test_bytes.py tests/test_public_names.py tests/test_settings.py

lint: .venv/.ready-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# What takes long, whole or in parts: make check-long PART=fuzz|kills|oracles; each long test is in one of them
WHERE := tests
WHERE_fuzz := tests/fuzz
WHERE_kills := tests/kills
WHERE_oracles := tests --ignore=tests/fuzz --ignore=tests/kills

check-long: .venv/.ready-dev
	$(BIN)/pytest -q -n 2 -m long $(or $(WHERE$(PART:%=_%)),$(error PART=$(PART): expected fuzz, kills or oracles))

bench: .venv/.ready-dev
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script --small || exit 1; done

# The stages of the `general` weights, from ../shared/data and simulated EM, and the two of `epfl`. PRECISION=bfloat16
# halves the time of the last five where the processor multiplies it.
PRECISION ?= auto
weights: .venv/.ready
	$(BIN)/cristae train configs/general.yaml
	$(BIN)/cristae train configs/general_touching.yaml --from runs/general/model.pt
	$(BIN)/cristae train configs/general_wider.yaml --from runs/general_touching/model.pt
	$(BIN)/cristae train configs/general_wider.yaml --from runs/general_wider/model.pt --set out=runs/general_last \
		--set train.seed=7 --set train.steps=700 --set train.learning_rate=0.0008 \
		--set volumes.0.weight=2.0 --set volumes.1.weight=2.0 --set volumes.2.weight=2.0 --set volumes.3.weight=2.0
	$(BIN)/cristae train configs/general_more.yaml --from runs/general_last/model.pt --set train.precision=$(PRECISION)
	$(BIN)/cristae train configs/general_light.yaml --from runs/general_more/model.pt --set train.precision=$(PRECISION)
	$(BIN)/cristae train configs/general_bodies.yaml --from runs/general_light/model.pt --set train.precision=$(PRECISION)
	$(BIN)/cristae average runs/general_more/model.pt runs/general_bodies/model.pt --out runs/general_mean.pt --overwrite
	$(BIN)/cristae train configs/epfl.yaml --from runs/general_light/model.pt --set train.precision=$(PRECISION)
	$(BIN)/cristae train configs/epfl.yaml --from runs/epfl/model.pt --set out=runs/epfl_all --set train.seed=5 \
		--set train.steps=1000 --set train.learning_rate=0.0008 --set volumes.0.roi=0:165,0:768,0:1024 \
		--set train.precision=$(PRECISION)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cristae needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv cristae-demo build dist
