"""Where the fixtures lie and what they say. No test logic, no other tool."""

import atexit
import json
import lzma
import shutil
import tempfile
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def unpacked(folder):
    """A copy of the model folders in which the weights, stored as .xz, are ready to be read; it goes at exit."""
    out = Path(tempfile.mkdtemp(prefix="aurora-fixtures-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    shutil.copytree(folder, out, dirs_exist_ok=True)
    for packed in out.glob("*/*.xz"):
        with lzma.open(packed) as source, open(packed.with_suffix(""), "wb") as target:
            shutil.copyfileobj(source, target)
        packed.unlink()
    return out


MODELS = unpacked(FIXTURES / "models")

# A folder with golden logits is a fixture; tests/graph.rs wants one of every architecture.
NAMES = tuple(sorted(p.name for p in MODELS.iterdir() if (p / "golden.safetensors").exists()))
# What llama-quantize --pure writes.
PURE = ("--pure", "--scales", "reference")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def dump(name, kind):
    """llama.cpp's converter on this model: every key and tensor."""
    return read_json(FIXTURES / "ref-gguf" / f"{name}-{kind}.gguf-dump.json")


def block_hashes():
    """{model: {TYPE: {tensor: [type written, sha256]}}} from `llama-quantize --pure`."""
    folder = FIXTURES / "ref-blocks"
    return {**read_json(folder / "block-hashes.json"), **read_json(folder / "block-hashes-new.json")}


# What llama-quantize was recorded to make of every fixture, with `--pure` and without; tests/plan.rs wants all mixtures.
BLOCKS = tuple(kind.lower() for kind in block_hashes()["stories260k"])
MIXTURES = tuple(read_json(FIXTURES / "ref-blocks" / "mixtures.json")["stories260k"])


def mixture(name, kind):
    """What `llama-quantize` without `--pure` made of a model: ({tensor: type} of those that have not the usual type, the
    usual type of a matrix, how many stay F32, the file's size or None where it refused without importances)."""
    row = read_json(FIXTURES / "ref-blocks" / "mixtures.json")[name][kind]
    others = {
        name: kind
        for kind, names in row["others"].items()
        for rest, blocks in names.items()
        for name in ([f"blk.{i}.{rest}" for i in blocks] or [rest])
    }
    return others, row["usual"], row["f32"], row.get("file_bytes")
