# realign: `make demo` runs the main job, `make test` passes the tests; both set .venv up on first use.
#
# ROS 2 comes as pip wheels, unless an apt ROS 2 is sourced (ROS_DISTRO set and rclpy importable):
# then .venv sees that one and no ROS wheel is installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

ifneq ($(ROS_DISTRO),)
APT_ROS := $(shell $(PYTHON) -c 'import rclpy' 2>/dev/null && echo yes)
endif
ifeq ($(APT_ROS),yes)
EXTRAS := sim,train
VENV_FLAGS := --system-site-packages
else
EXTRAS := sim,ros,train
endif

# A stamp's name carries what was installed, so an unchanged set-up costs one checksum.
KEY := $(shell (echo '$(EXTRAS) $(CURDIR)'; cat setup.py constraints.txt) | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/.run-$(KEY)
DEV_STAMP := $(VENV)/.dev-$(KEY)

.PHONY: demo test test-slow bench lint clean install dev
.DEFAULT_GOAL := demo

demo: $(RUN_STAMP)
	@$(BIN)/realign demo --out realign_demo --overwrite $(DEMO_ARGS)

test: $(DEV_STAMP)
	@$(BIN)/pytest -n 2 --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: $(DEV_STAMP)
	@$(BIN)/pytest -m slow $(PYTEST_ARGS)

bench: $(DEV_STAMP)
	@set -e; for bench in tests/bench/bench_*.py; do $(BIN)/python "$$bench" $(BENCH_ARGS); done

lint: $(DEV_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

install: $(RUN_STAMP)

dev: $(DEV_STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info realign_demo
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(1) is the list of extras; the target is the stamp. `dev` includes what `demo` needs.
define install_extras
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'realign: expected Python 3.10 or newer; run: make PYTHON=python3.12' >&2; exit 2; }
	@echo 'realign: installing into $(VENV), about 2 minutes'
	@$(BIN)/pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV_FLAGS) $(VENV)
	@rm -f $(VENV)/.run-* $(VENV)/.dev-*
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet -c constraints.txt -e '.[$(1)]' \
	  > $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@
endef
comma := ,

$(RUN_STAMP):
	$(call install_extras,$(EXTRAS))

$(DEV_STAMP):
	$(call install_extras,$(EXTRAS)$(comma)dev)
	@touch $(RUN_STAMP)
