# `make demo` and `make test` set up what they need, in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TESTS := $(VENV)/ready-for-tests
OUT ?= demo-run

.PHONY: demo test messages lint setup clean

setup: $(TESTS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mergekit-fair needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[demo,plot]'
	touch $(READY)

$(TESTS): $(READY)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[demo,plot,test]'
	touch $(TESTS)

demo: $(READY)
	$(BIN)/mergekit-fair demo -o $(OUT) || [ $$? -eq 3 ]  # 3: it keeps FFT

# Without the tests marked `slow`, unless CI is set. A file's tests stay in one process, with its fixtures.
test: $(TESTS)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile -m "$(if $(CI),not gpu,not slow and not gpu)"

# After a sentence has changed: writes tests/messages.txt anew, for you to read in the diff.
messages: $(TESTS)
	$(BIN)/python tests/messages.py

lint: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
