"""Tests of the product, and what they need to run without Meta and without a cloud."""
