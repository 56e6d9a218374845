"""A stand-in for Meta's Graph API, used by tests, the demo and benchmarks only.

It speaks Meta's documented contract on loopback and counts what really arrived. Product code never imports
it and never knows it: it only sees another `META_GRAPH_URL`.
"""

from tests.graph.client import Arrival, Counts, Graph, Webhooks
from tests.graph.process import graph_process
from tests.graph.templates import Template
from tests.graph.world import Number, World, random_phone

__all__ = [
    "Arrival",
    "Counts",
    "Graph",
    "Number",
    "Template",
    "Webhooks",
    "World",
    "graph_process",
    "random_phone",
]
