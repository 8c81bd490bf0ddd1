"""The definition of sparse attention (docs/attention.md) in NumPy: which keys a query sees. Shares no code with Tandem."""
import numpy as np

MASK = 0xFFFFFFFF


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al. 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        even, odd = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(odd >> 32) ^ c[1] ^ k[0], odd & MASK, (even >> 32) ^ c[3] ^ k[1], even & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def chosen_blocks(window, glob, random, seed, layer, q):
    """The random key blocks of query block q in a layer."""
    scored = []
    for j in range(q):
        if 64 * j >= glob and 64 * (j + 1) <= 64 * q - window + 1:
            words = philox4x32((j, q, layer, 0), (seed & MASK, seed >> 32))
            scored.append((words[0] | words[1] << 32, j))
    return sorted(j for _, j in sorted(scored)[:random])


def visible(tokens, window, glob=0, random=0, seed=0, layer=0):
    """[tokens, tokens] bool: whether the query (row) sees the key (column)."""
    p, k = np.arange(tokens)[:, None], np.arange(tokens)[None, :]
    sees = (p - k < window) | (k < glob)
    for q in range((tokens + 63) // 64):
        for j in chosen_blocks(window, glob, random, seed, layer, q):
            sees[64 * q:64 * q + 64, 64 * j:64 * j + 64] = True
    return sees & (k <= p)
