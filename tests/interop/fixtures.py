"""Where the fixtures lie and what they say. No test logic, no other tool."""

import json
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MODELS = FIXTURES / "models"

# Written out, so that a missing folder is a failure and not one test fewer.
NAMES = (
    "stories260k", "tiny-gemma2", "tiny-gemma3", "tiny-gpt2", "tiny-granite", "tiny-llama-bias",
    "tiny-llama3", "tiny-mistral", "tiny-mixtral", "tiny-olmo2", "tiny-phi3", "tiny-qwen2",
    "tiny-qwen3", "tiny-qwen3-moe",
)
BLOCK_TYPES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
FLOAT_TYPES = ("f16", "bf16")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def dump(name, kind):
    """llama.cpp's converter on this model: every key and tensor."""
    return read_json(FIXTURES / "ref-gguf" / f"{name}-{kind}.gguf-dump.json")


def block_hashes():
    """{model: {TYPE: {tensor: [type written, sha256]}}} from `llama-quantize --pure`."""
    folder = FIXTURES / "ref-blocks"
    return {**read_json(folder / "block-hashes.json"), **read_json(folder / "block-hashes-new.json")}
