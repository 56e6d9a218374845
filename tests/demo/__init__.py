"""The demo: the main job on the local stack, live, with a stand-in for Meta. `python -m tests.demo`."""
