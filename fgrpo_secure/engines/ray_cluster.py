"""The Ray cluster that a simulation runs on: RAY_ADDRESS names it; without one, this machine alone is one."""

import logging
import os
from typing import Any

from fgrpo_secure import entropy
from fgrpo_secure.engines.worker_process import EngineError

ALONE = "local"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # nothing is told to its makers


def connected() -> Any:
    """The library, connected. EngineError where it is not installed or no cluster answers."""
    address = os.environ.get("RAY_ADDRESS", ALONE)
    for name, value in (QUIET if address != ALONE else QUIET | _closed()).items():
        os.environ.setdefault(name, value)  # before it is imported: it looks at them once
    try:
        import ray
    except ImportError:
        raise EngineError("engine.kind 'ray' needs Ray: pip install 'fgrpo-secure[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as problem:
            said = str(problem).strip().splitlines()[0]
            raise EngineError(f"no Ray cluster answers at RAY_ADDRESS {address!r}: {said}") from None
    return ray


def _closed() -> dict[str, str]:
    """Whoever reaches a cluster runs code in it, and Ray listens on every address: nobody else has this token."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": entropy.from_kind("os", 0).bytes(32, "ray").hex()}


def only_on(machine: str, name: str) -> Any:
    """The scheduling of an actor that belongs on the node with this address. EngineError where the cluster has none."""
    ray = connected()
    for node in ray.nodes():
        if node["Alive"] and node["NodeManagerAddress"] == machine:
            return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    raise EngineError(f"{name}: its owners' files are on {machine}, which is no machine of this Ray cluster; add it")


def own_address() -> str:
    """The address of the node that this actor runs on."""
    import ray

    return str(ray.util.get_node_ip_address())
