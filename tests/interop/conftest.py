"""Conversion of every fixture by the binary under test, once per session and type."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def binary():
    """The program under test; without it nothing here means anything, so its absence fails."""
    path = os.environ.get("AURORA_QUANT")
    if not path or not os.access(path, os.X_OK):
        pytest.fail(f"AURORA_QUANT must be the path of the aurora-quant binary, it is {path!r}; "
                    "tests/run sets it")
    return path


@pytest.fixture(scope="session")
def convert(binary, tmp_path_factory):
    """`convert(source, type, *options)` -> path of the GGUF file, made once and kept."""
    made = {}
    folder = tmp_path_factory.mktemp("gguf")

    def run(source: Path, kind: str, *options: str) -> Path:
        key = (source, kind, options)
        if key not in made:
            out = folder / f"{len(made):03}-{source.stem}-{kind}.gguf"
            done = subprocess.run(
                [binary, "convert", str(source), "--type", kind, "-o", str(out), "-q", *options],
                capture_output=True, text=True, timeout=300)
            # Remember failures, too: sixteen tests of one broken model should not run it 16 times.
            failed = None
            if done.returncode != 0 or not out.is_file():
                failed = (f"convert {source.name} --type {kind}: exit code {done.returncode}\n"
                          f"{done.stdout}{done.stderr}")
            made[key] = (out, failed)
        out, failed = made[key]
        if failed:
            pytest.fail(failed, pytrace=False)
        return out

    return run
