# Two commands for a newcomer: `make run` trains ten clients, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One process more than there are cores, at most 4: tests often wait for processes of their own.
PARALLEL := -n $(shell cores=$$(nproc); echo $$((cores < 3 ? cores + 1 : 4))) --dist loadfile
LOWEST := $(VENV)-lowest
SUPPLY := $(VENV)-supply
ON_LOWEST := tests/config tests/events tests/models tests/storage tests/table tests/wire tests/data/read tests/native/test_plans.py \
	tests/net/test_channel.py tests/net/test_parameter_server.py tests/launch/test_launcher.py tests/test_cli_flags.py
export FEDPS_DATA ?= $(realpath ../shared/data)
export PYTHONDONTWRITEBYTECODE :=  # tests start hundreds of processes, each of which would compile all modules anew

.PHONY: setup run test test-all test-lowest check check-deploy lock supply bench chaos crash organisations clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup  ## ten clients train NCF on MovieLens-1M (or, said loudly, on a synthetic twin)
	$(BIN)/fedps data prepare movielens --out .data/ml-1m --or-synthetic
	$(BIN)/fedps run examples/quickstart.yaml

check: setup  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## all checks, then the tests, a file a process at a time
	$(BIN)/pytest $(PARALLEL)

test-all: check  ## the long ones too
	$(BIN)/pytest $(PARALLEL) -m "slow or not slow" --timeout 900

test-lowest: $(LOWEST)/.ready  ## what tells most of all dependencies, in the lowest versions allowed, on Python 3.11
	$(LOWEST)/bin/pytest $(PARALLEL) $(ON_LOWEST)

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --constraint constraints-lowest.txt torch
	$(LOWEST)/bin/pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

chaos: setup  ## the example's job under kills, freezes and cuts in each mode, about half an hour on two cores
	$(BIN)/fedps data prepare movielens --out .data/ml-1m --or-synthetic
	rm -rf runs/chaos
	$(BIN)/python -m tests.chaos --data .data/ml-1m --out runs/chaos

crash: setup  ## each durable call of a small job: who makes it is killed there, or it fails; FAULTS="--every 20 --slow 4" takes some
	$(BIN)/python -m tests.crash $(FAULTS)

organisations: setup  ## three organisations in network namespaces: slow lines, NAT, mutual TLS; as root, with iproute2 and nftables
	$(BIN)/fedps data prepare movielens --partition iid --clients 3 --out .data/ml-1m-3 --or-synthetic
	rm -rf runs/organisations
	$(BIN)/python -m tests.organisations --data .data/ml-1m-3 --out runs/organisations

check-deploy:  ## the compose file and the manifests against their schemas, which come with the checkers
	$(PYTHON) -m venv $(VENV)-deploy
	$(VENV)-deploy/bin/pip install --quiet check-jsonschema kubernetes-validate
	$(VENV)-deploy/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(VENV)-deploy/bin/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml

# torch is not locked, as each machine has a build of its own: constraints.txt says its version.
LOCK = echo "torch ; python_version < '0'" | $(SUPPLY)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --override - pyproject.toml --extra serve --extra tls

lock: $(SUPPLY)/.ready  ## what is installed, with hashes: anew, in the newest versions
	$(LOCK) --upgrade --output-file requirements.lock
	$(LOCK) --extra onnx --extra bench --constraint requirements.lock --output-file requirements-torch.lock \
		$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)

supply: $(SUPPLY)/.ready  ## what is locked, installed by its hashes: bill of materials, licences, known faults; OSV="a list kept offline"
	mkdir -p build/supply
	$(PYTHON) -m venv --clear $(SUPPLY)-locked
	$(SUPPLY)-locked/bin/pip install --quiet --require-hashes --requirement requirements.lock
	$(SUPPLY)-locked/bin/pip install --quiet --no-deps .
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/supply/sbom.json $(SUPPLY)-locked
	$(SUPPLY)/bin/pip-licenses --python $(SUPPLY)-locked/bin/python --format json --output-file build/supply/licences.json
	$(SUPPLY)/bin/python -m tests.supply requirements*.lock $(OSV)
	$(SUPPLY)/bin/pip-audit --disable-pip --require-hashes --requirement requirements.lock --format json --output build/supply/advisories.json

$(SUPPLY)/.ready:
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/pip install --quiet uv packaging pip-audit cyclonedx-bom pip-licenses
	touch $@

bench: setup  ## all measurements, about 10 minutes on two cores; tables and plots in bench/results
	$(BIN)/fedps data prepare movielens --out .data/ml-1m --or-synthetic
	$(BIN)/python -m bench --data .data/ml-1m --out bench/results

clean:
	rm -rf $(VENV) $(LOWEST) $(VENV)-deploy $(SUPPLY) $(SUPPLY)-locked build .data runs
