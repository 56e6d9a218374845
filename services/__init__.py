"""The rooms of the house: all thinking happens here, the doors in `functions/` only call it."""
