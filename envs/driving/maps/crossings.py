"""Maps of one junction: with signals, with priority, and the roundabout."""

from __future__ import annotations

import numpy as np

from palaestra.envs.driving.curves import direction, join
from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps.draw import Draw, Split
from palaestra.envs.driving.maps.junctions import build
from palaestra.envs.driving.maps.network import Edge, Kind, Network, Node
from palaestra.envs.driving.maps.streets import TOWN_ROUTES
from palaestra.envs.driving.maps.ways import add_routes


def star(draw: Draw, node: Node, arms: int, lanes: tuple[int, int], limit: float) -> Network:
    """Return a network of one node in the middle and arms that lead to it on gentle bends.

    Args:
        draw: Random numbers.
        node: The node, at the origin.
        arms: 3 or 4 of them, at right angles but for some 15 degrees.
        lanes: Lanes each way of the major and the minor roads.
        limit: m/s on the major roads.
    """
    network = Network({"middle": node})
    width, turn, leave_out = draw.uniform(3.1, 3.6), draw.uniform(-np.pi, np.pi), draw.choice(0, 1, 2, 3)
    for number in range(4):
        major = number % 2 == (leave_out + 1) % 2 if arms == 3 else number % 2 == 0
        if arms == 3 and number == leave_out:
            continue
        yaw = turn + number * np.pi / 2 + (0.0 if major else draw.uniform(-0.25, 0.25))
        reach, bend = draw.uniform(90.0, 140.0), draw.uniform(-0.3, 0.3)
        end = node.position + reach * direction(yaw + bend)
        network.nodes[f"end{number}"] = Node(end, "end")
        path = join(node.position, yaw, end, yaw + 2 * bend)
        count = lanes[0] if major else lanes[1]
        speed = limit if major else 0.8 * limit
        network.edges[f"arm{number}"] = Edge(path, ("middle", f"end{number}"), (count, count), speed, width, major)
    return network


def signalised(seed: int = 0, split: Split = "train") -> LaneGraph:
    """Return a four-way crossing with signals: permissive, split or with protected left turns."""
    draw = Draw("signalised", split, seed)
    plan = ("permissive", "split", "protected")[draw.choice(0, 0, 1, 2)]
    low = 2 if plan == "protected" else 1
    node = Node(np.zeros(2), "signal", signals=plan)
    network = star(draw, node, 4, (draw.choice(2, 2, 3), draw.choice(low, 2)), draw.uniform(10.0, 14.0))
    graph = build(network, draw.name, (draw.uniform(12.0, 22.0), draw.uniform(9.0, 14.0)))
    add_routes(graph, draw, 16, TOWN_ROUTES)
    return graph


def priority(seed: int = 0, split: Split = "train") -> LaneGraph:
    """Return a junction of 3 or 4 arms without signals: the side roads yield or stop."""
    draw = Draw("priority", split, seed)
    kind: Kind = "stop" if draw.chance(0.5) else "priority"
    node = Node(np.zeros(2), kind, crosswalks=draw.chance(0.7))
    network = star(draw, node, draw.choice(3, 4), (draw.choice(1, 1, 2), 1), draw.uniform(9.0, 14.0))
    graph = build(network, draw.name, (0.0, 0.0))
    add_routes(graph, draw, 16, TOWN_ROUTES)
    return graph


def roundabout(seed: int = 0, split: Split = "train") -> LaneGraph:
    """Return a roundabout of one lane with 3 or 4 arms; who enters yields."""
    draw = Draw("roundabout", split, seed)
    node = Node(np.zeros(2), "roundabout", crosswalks=draw.chance(0.7), ring=draw.uniform(14.0, 22.0))
    network = star(draw, node, draw.choice(3, 4, 4), (1, 1), draw.uniform(9.0, 13.0))
    graph = build(network, draw.name, (0.0, 0.0))
    add_routes(graph, draw, 16, TOWN_ROUTES)
    return graph
