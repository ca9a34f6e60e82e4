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

# Written out, so that a missing folder is a failure and not one test fewer.
NAMES = (
    "stories260k", "tiny-gemma2", "tiny-gemma3", "tiny-gpt2", "tiny-granite", "tiny-llama-bias",
    "tiny-llama3", "tiny-mistral", "tiny-mixtral", "tiny-olmo2", "tiny-phi3", "tiny-qwen2",
    "tiny-qwen3", "tiny-qwen3-moe",
)
BLOCK_TYPES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
FLOAT_TYPES = ("f16", "bf16")
# What llama-quantize --pure writes.
PURE = ("--pure", "--scales", "reference")
# By the name that recorded mixtures have.
MIXTURES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "MXFP4_MOE", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S",
)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def dump(name, kind):
    """llama.cpp's converter on this model: every key and tensor."""
    return read_json(FIXTURES / "ref-gguf" / f"{name}-{kind}.gguf-dump.json")


def block_hashes():
    """{model: {TYPE: {tensor: [type written, sha256]}}} from `llama-quantize --pure`."""
    folder = FIXTURES / "ref-blocks"
    return {**read_json(folder / "block-hashes.json"), **read_json(folder / "block-hashes-new.json")}


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
