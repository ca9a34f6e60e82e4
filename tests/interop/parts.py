"""Models without some of their parts, and the whole ones with zeros in their place."""

import json
import subprocess

import numpy as np
from safetensors.numpy import load_file, save_file

from fixtures import MODELS

TEXT = ("--samples", "4", "-c", "64")


def removed(binary, name, tmp_path, *options):
    """The file or folder of what is left, and the records of what went; or the refusal."""
    out, record = tmp_path / "left.gguf", tmp_path / "record.json"
    done = subprocess.run([binary, "convert", str(MODELS / name), "--type", "f32", "-o", str(out), "-q", "--force",
                           "--record", str(record), "--no-compensate", *options,
                           # Layers that are named need no text.
                           *(() if "layers=1" in options else TEXT)],
                          capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        return None, done.stderr
    return out, [p for p in json.loads(record.read_text())["passes"] if p["pass"] == "remove"]


def zeroed(binary, name, tmp_path, records):
    """The checkpoint, in single precision, with zeros where parts went."""
    folder = tmp_path / "zeroed"
    subprocess.run([binary, "convert", str(MODELS / name), "--format", "safetensors", "--type", "f32", "-q",
                    "-o", str(folder)], check=True, timeout=300)
    config = json.loads((MODELS / name / "config.json").read_text())
    heads = config.get("num_attention_heads", config.get("n_head"))
    all_ = load_file(folder / "model.safetensors")
    for record in records:
        facts, block = record["facts"], record["block"]
        layer = next(root for root in (f"model.layers.{block}.", f"transformer.h.{block}.", f"h.{block}.",
                                       f"language_model.model.layers.{block}.", f"layers.{block}.")
                     if any(key.startswith(root) for key in all_))
        conv1d = "h." in layer
        for key in [key for key in all_ if key.startswith(layer)]:
            w = np.array(all_[key])
            out = key.endswith(("o_proj.weight", "attn.c_proj.weight"))
            expert = f".experts.{record['expert']}." if "expert" in record else ""
            down = key.endswith(("down_proj.weight", "mlp.c_proj.weight", ".w2.weight")) and expert in key
            if facts["gone"] == "layer" and (out or down or key.endswith(("o_proj.bias", "down_proj.bias", "c_proj.bias"))):
                w[:] = 0
            elif facts["gone"] == "channels" and down:
                w[(facts["channels"], slice(None)) if conv1d else (slice(None), facts["channels"])] = 0
            elif facts["gone"] == "heads" and out:
                dim = w.shape[1] // heads
                for head in facts["heads"]:
                    w[:, head * dim:(head + 1) * dim] = 0
            all_[key] = w
    save_file(all_, folder / "model.safetensors")
    return folder
