"""The vocabulary we write tokenizes in llama.cpp as tokenizer.json does.

Where llama.cpp is known to differ with its own converter's file (no NFC, no Metaspace `first`), the
fixture stores its ids, and ours must give the same ones: better by accident would still be a change.
"""

import pytest

import llama
from fixtures import MODELS, NAMES, read_json

CASES = [
    pytest.param(name, case, id=f"{name}-{case['id']}")
    for name in NAMES
    for case in read_json(MODELS / name / "tokenizer_cases.json")["cases"]
]


@pytest.fixture(scope="module")
def vocabulary(convert):
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = llama.Vocabulary(convert(MODELS / name, "f32"))
        return loaded[name]

    return get


@pytest.mark.parametrize("name, case", CASES)
def test_case(vocabulary, name, case):
    prefix = "" if case["llama_cpp_agrees"] else "llama_cpp_"
    vocab = vocabulary(name)
    assert vocab.ids(case["text"], add_special=True) == case[f"{prefix}ids"]
    assert vocab.ids(case["text"], add_special=False) == case[f"{prefix}ids_without_special"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_text(vocabulary, name):
    golden = read_json(MODELS / name / "golden.json")
    assert vocabulary(name).ids(golden["text"], add_special=True) == golden["token_ids"]
