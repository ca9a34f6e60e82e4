"""llama.cpp through its Python binding, set up so that only the file decides the numbers."""

import llama_cpp
import numpy as np


def logits(path, ids):
    """[len(ids), vocab] in one batch: float32 KV cache, no flash attention, two threads."""
    model = llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, n_threads=2, n_threads_batch=2, flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False)
    try:
        model.eval(ids)
        return np.array(model.scores[:len(ids)])
    finally:
        model.close()


def embedding(path, ids):
    """The one vector that stands for the tokens, by the file's own way to pool; at length one."""
    model = llama_cpp.Llama(str(path), embedding=True, n_ctx=64, n_threads=2, flash_attn=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False)
    try:
        batch, context = model._batch, model._ctx
        batch.reset()
        batch.add_sequence(ids, 0, False)
        context.decode(batch)
        pointer = llama_cpp.llama_get_embeddings_seq(context.ctx, 0)
        assert pointer, "the file names no way to pool"
        vector = np.array(pointer[:model.n_embd()])
        return vector / np.linalg.norm(vector)
    finally:
        model.close()


class Vocabulary:
    """The tokenizer llama.cpp builds from a file's metadata; weights are not loaded."""

    def __init__(self, path):
        self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def ids(self, text, add_special):
        """Special tokens in the text are recognised, as `tokenizers` does by default."""
        return self.model.tokenize(text.encode(), add_bos=add_special, special=True)
