"""All thinking happens here; `functions/` only call it."""
