"""A fleet of servers on a local Ray cluster of two nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from palaestra.agents.vlm.core import Generate, Message, ServerLostError, Text
from palaestra.launch.ray import Fleet
from palaestra.launch.serve import ServeOptions

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    yield made.address
    ray.shutdown()
    made.shutdown()


def hello(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


@pytest.mark.slow
def test_a_killed_replicas_asks_are_answered_elsewhere_and_it_comes_back(cluster: str) -> None:
    with Fleet(ServeOptions(model=("echo=echo:?delay=0.3",), max_batch=1), replicas=2) as fleet:
        first = fleet.urls
        assert len(first) == 2
        futures = [fleet.client.ask_nowait("echo", hello(str(index))) for index in range(8)]
        time.sleep(0.2)
        ray.kill(fleet._actors[0], no_restart=False)
        answers = [future.result(30).answer for future in futures]
        assert [answer.text for answer in answers if isinstance(answer, Text)] == [str(index) for index in range(8)]
        end = time.monotonic() + 60
        while not (len(fleet.urls) == 2 and set(fleet.urls) != set(first)):
            assert time.monotonic() < end, fleet.urls
            time.sleep(0.2)
        assert len([fleet.client.ask("echo", hello("back")) for _ in range(4)]) == 4
        assert set(fleet.client.metrics()) == {f"echo at {url}" for url in fleet.urls}


@pytest.mark.slow
def test_a_replica_that_cannot_start_is_reported(cluster: str) -> None:
    with pytest.raises(ServerLostError, match="replica 0 of 1 did not start"):
        Fleet(ServeOptions(model=("broken=echo:nowhere.json",)), replicas=1, start_seconds=60)
