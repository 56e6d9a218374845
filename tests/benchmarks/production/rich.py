"""Hides the development dependency `rich` from cold starts: httpx imports it where it is, a deployment has none."""

raise ImportError("not installed in production")
