"""Derive every random choice of a run from its seed, so that nothing random has to be saved."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 31-bit seed that is a pure function of the parts.

    The same (seed, step, sample id, index) gives the same number on every machine and in every
    process, which is what makes an interrupted run continue exactly.

    Args:
        parts: Whatever identifies the choice, for example ``(run_seed, step, sample_id, k)``.

    Returns:
        An integer in [0, 2**31).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
