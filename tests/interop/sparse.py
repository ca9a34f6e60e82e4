"""A second reader of sparse GGUF files, written from docs/sparse.md with NumPy alone."""

import struct

import numpy as np

SIMPLE = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8",
          12: "<f8"}
STRING, ARRAY = 8, 9
# ggml's types: weights and bytes of a block.
TYPES = {0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 8: ("q8_0", 32, 34), 24: ("i8", 1, 1), 27: ("i64", 1, 8),
         30: ("bf16", 1, 2)}
QUADS = {0x4, 0x8, 0xC, 0x9, 0xD, 0xE}


class Reader:
    """Keys in `keys`; tensors in `tensors`: name -> (type, shape with rows first, bytes)."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0
        assert self.take(4) == b"GGUF"
        assert self.number("<u4") == 3
        count, entries = self.number("<u8"), self.number("<u8")
        self.keys = {}
        for _ in range(entries):
            key = self.text()
            self.keys[key] = self.value(self.number("<u4"))
        rows = []
        for _ in range(count):
            name = self.text()
            dims = [self.number("<u8") for _ in range(self.number("<u4"))]
            rows.append((name, dims[::-1], *TYPES[self.number("<u4")], self.number("<u8")))
        alignment = self.keys.get("general.alignment", 32)
        start = -(-self.at // alignment) * alignment
        self.tensors = {}
        for name, shape, kind, block, width, offset in rows:
            size = int(np.prod(shape)) // block * width
            self.tensors[name] = (kind, shape, self.data[start + offset:start + offset + size])

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, kind):
        return np.frombuffer(self.take(np.dtype(kind).itemsize), kind)[0].item()

    def text(self):
        return self.take(self.number("<u8")).decode()

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            element, count = self.number("<u4"), self.number("<u8")
            return [self.value(element) for _ in range(count)]
        return self.number(SIMPLE[kind])


def stored_columns(layout, mask, columns):
    """The columns that a row stores, in order."""
    if layout == "bitmask":
        bits = np.unpackbits(mask, bitorder="little")
        assert not bits[columns:].any()
        return np.flatnonzero(bits[:columns])
    found = []
    for quad in range(columns // 4):
        nibble = int(mask[quad // 2]) >> (quad % 2 * 4) & 15
        assert nibble in QUADS
        found += [4 * quad + nibble % 4, 4 * quad + nibble // 4]
    return np.array(found)


def dense(reader, name, layout, kind, dims):
    """A matrix as float32 (rows over all outer dimensions), and its codes, if it has any."""
    shape = [n for n in dims if n][::-1]
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    stem = name.removesuffix(".weight")
    assert name not in reader.tensors

    def part(end, expected, numbers, size=None):
        found, dims, data = reader.tensors[f"{stem}.{end}"]
        assert found == expected and (size is None or dims == size), (name, end, found, dims, size)
        return np.frombuffer(data, numbers)

    mask = part("mask", "i8", np.uint8, [rows, -(-columns // 8)]).reshape(rows, -1)
    if layout == "bitmask":
        index = part("index", "i64", "<i8", [rows + 1])
    else:
        assert layout == "2:4" and f"{stem}.index" not in reader.tensors
        index = np.arange(rows + 1) * (columns // 2)
    assert index[0] == 0 and (np.diff(index) >= 0).all()
    codes = kind in ("q8_0", "q4_0")
    if codes:
        values = part("values", "i8", np.uint8)
        scales = part("scales", "f16", "<f2", [rows, columns // 32]).reshape(rows, -1).astype(np.float32)
        if kind == "q4_0":
            values = np.stack([values & 15, values >> 4], axis=1).ravel().astype(np.int8) - 8
        values = values.view(np.int8)
    elif kind == "bf16":
        values = (part("values", kind, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = part("values", kind, {"f16": "<f2", "f32": "<f4"}[kind]).astype(np.float32)
    assert len(values) == index[-1]
    out = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        places = stored_columns(layout, mask[row], columns)
        own = values[index[row]:index[row + 1]]
        filled = len(places) + (len(places) % 2 if kind == "q4_0" else 0)
        assert filled == len(own), (name, row)
        out[row, places] = own[:len(places)]
    if codes:
        out *= np.repeat(scales, 32, axis=1)
    return out


def matrices(reader):
    """name -> dense matrix, of all that are stored sparse."""
    keys = reader.keys
    assert keys["general.architecture"].startswith("sparse-") and keys["sparse.version"] == 1
    names = keys["sparse.tensors"]
    assert len(set(names)) == len(names) == len(keys["sparse.layouts"]) == len(keys["sparse.types"])
    dims = np.array(keys["sparse.shapes"]).reshape(len(names), 4).tolist()
    every = zip(names, keys["sparse.layouts"], keys["sparse.types"], dims)
    return {name: dense(reader, name, *stated) for name, *stated in every}
