"""One round of Flower's SecAgg+ in memory: its own client mod and its own server workflow, no network, no training.

    peer/bin/python benchmarks/peers/flower.py --n 50 --d 1000000 --shares full --drop 0.2

Needs flwr (peers/requirements.txt) in an environment of its own. A fake `Grid` hands the server's messages to the
clients one after the other, so what is timed is the protocol. The share of clients that `--drop` names answers the
masking stage with an error, as a lost node does. Prints one JSON object:

    client_*_s            seconds of one client in a stage, mean over the clients that answered
    client_quantise_s     of client_mask_s: weighting, clipping and stochastic rounding, before any mask
    server_*_s            seconds of the server in a stage, outside the grid
    server_unmask_split   of server_unmask_s: secret sharing, mask expansion, key agreement, the rest
    up_bytes_*, down_bytes_*   what one client sends and gets in a stage (values of the records, no framing)
    rss_peak_mb, rss_growth_mb   of the process, server and all clients together; growth since before the round
    client_mask_peak_mb, server_peak_mb   with --trace: tracemalloc peaks of one client's masking, and of the process
                          while the server's code runs. Ends before the unmask stage, which tracing would make last
                          for many minutes and which could only raise the peak
    max_abs_err           of the weighted mean: that the round was right
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any

import flwr.compat.common.recorddict_compat as compat
import flwr.server.workflow.secure_aggregation.secaggplus_workflow as server_code
import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import Strategy
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey

# By its full name: the package exports a function of the same name, which hides the module.
client_code = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

MIB = 2**20
STAGES = {  # the workflow's names, and ours for the same thing
    "setup": "setup",
    "share_keys": "share",
    "collect_masked_vectors": "mask",
    "unmask": "unmask",
}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def update_of(client: int, d: int) -> np.ndarray:
    """The client's model update, made again whenever it is needed."""
    return (np.random.default_rng(1000 + client).standard_normal(d) * 0.1).astype(np.float32)


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the values that a message's configuration records carry; a number counts as 8."""
    values = [value for record in content.config_records.values() for value in record.values()]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return sum(len(item) if isinstance(item, bytes | str) else 8 for item in flat)


class Stopwatch:
    """Adds up the time spent inside functions of another module."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, module: Any, name: str, label: str) -> None:
        """Replaces `module.name` by itself plus a measurement."""
        inner = getattr(module, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self._clock()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[label] += self._clock() - started

        setattr(module, name, timed)


@dataclass
class Round:
    """The settings of one round, and what is measured in it."""

    d: int
    ids: list[int]
    weights: np.ndarray
    lost: set[int]
    clock: Callable[[], float]
    trace: bool
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    up: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    down: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    inside: float = 0.0
    mask_peak: int | None = None
    server_peak: int = 0


class MemoryGrid:
    """Answers the server's messages by running the client mod on each client's own context."""

    def __init__(self, plan: Round) -> None:
        self._round = plan
        self._contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in plan.ids}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """What Flower's grid does, in order and at once. It blocks, so `timeout` has no meaning here."""
        del timeout
        self._note_server_peak()
        started = self._round.clock()
        replies = [self._reply(message) for message in messages]
        self._round.inside += self._round.clock() - started
        if self._round.trace:
            tracemalloc.reset_peak()
        return replies

    def _note_server_peak(self) -> None:
        if self._round.trace:
            self._round.server_peak = max(self._round.server_peak, tracemalloc.get_traced_memory()[1])

    def _reply(self, message: Message) -> Message:
        record, node = self._round, message.metadata.dst_node_id
        stage = str(message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
        if stage == "collect_masked_vectors" and node in record.lost:
            return Message(Error(1, "lost"), reply_to=message)
        record.down[stage].append(payload_bytes(message.content))
        request = Message(  # the mod pops keys of its record: every client gets a copy, as over a network
            RecordDict(
                {k: ConfigRecord(dict(v)) if isinstance(v, ConfigRecord) else v for k, v in message.content.items()}
            ),
            dst_node_id=node,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
        )
        try:
            answer = self._timed(stage, node, request)
        except Exception as error:  # noqa: BLE001  # a SuperNode turns any failure of a client into an error reply
            record.errors.append(f"{stage}: {type(error).__name__}: {str(error)[:120]}")
            return Message(Error(2, repr(error)), reply_to=message)
        record.up[stage].append(payload_bytes(answer.content))
        return Message(answer.content, reply_to=message)

    def _timed(self, stage: str, node: int, request: Message) -> Message:
        record, training = self._round, [0.0]
        client = record.ids.index(node)

        def train(incoming: Message, _: Context) -> Message:
            started = record.clock()
            parameters = ndarrays_to_parameters([update_of(client, record.d)])
            result = FitRes(Status(Code.OK, ""), parameters, int(record.weights[client]), {"loss": 0.5})
            reply = Message(compat.fitres_to_recorddict(result, False), reply_to=incoming)
            training[0] += record.clock() - started
            return reply

        watched = record.trace and stage == "collect_masked_vectors" and record.mask_peak is None
        before = tracemalloc.get_traced_memory()[0] if watched else 0
        if watched:
            tracemalloc.reset_peak()
        started = record.clock()
        reply = client_code.secaggplus_mod(request, self._contexts[node], train)
        record.seconds[stage].append(record.clock() - started - training[0])
        if watched:
            record.mask_peak = tracemalloc.get_traced_memory()[1] - before
        return reply


class Everybody(Strategy):
    """Asks every client, and keeps what the workflow hands over."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self.mean: np.ndarray | None = None
        self.seen: list[tuple[int, int, dict[str, Any]]] = []

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Everybody is asked."""
        asks = FitIns(ndarrays_to_parameters([np.zeros(1, np.float32)]), {})
        return [(Proxy(node), asks) for node in self._ids]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Remembers the mean, and what came with it in the clear."""
        self.seen = [(proxy.node_id, result.num_examples, dict(result.metrics)) for proxy, result in results]
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}

    def initialize_parameters(self, client_manager: Any) -> Any:
        """Not used."""

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Not used."""
        return []

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        """Not used."""
        return None, {}

    def evaluate(self, server_round: int, parameters: Any) -> Any:
        """Not used."""


@dataclass
class Proxy:
    """All that the workflow wants to know of a client."""

    node_id: int


@dataclass
class Manager:
    """All that the workflow wants to know of the clients."""

    count: int

    def num_available(self) -> int:
        """How many there are."""
        return self.count


def server_context(strategy: Strategy, n: int) -> LegacyContext:
    """The workflow's context, at round 1 of a model of one number."""
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), strategy=strategy, client_manager=Manager(n))
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    model = compat.parameters_to_arrayrecord(ndarrays_to_parameters([np.zeros(1, np.float32)]), True)
    context.state.array_records[MAIN_PARAMS_RECORD] = model
    return context


def conduct(record: Round, shares: float | int, threshold: float) -> tuple[dict[str, float], Everybody, Any, bool]:
    """Runs the four stages: (server's seconds by stage, strategy, workflow state, whether it ended well)."""
    workflow = server_code.SecAggPlusWorkflow(shares, threshold, max_weight=float(record.weights.max()))
    strategy, state, grid = Everybody(record.ids), server_code.WorkflowState(), MemoryGrid(record)
    context = server_context(strategy, len(record.ids))
    seconds, ok = {}, True
    for stage in STAGES:
        record.inside, started = 0.0, record.clock()
        ok = getattr(workflow, f"{stage}_stage")(grid, context, state)
        seconds[stage] = record.clock() - started - record.inside
        if not ok or (record.trace and stage == "collect_masked_vectors"):
            break
    if record.trace:
        record.server_peak = max(record.server_peak, tracemalloc.get_traced_memory()[1])
    return seconds, strategy, state, ok


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One round, and everything that it shows."""
    n, d = options.n, options.d
    numbers = np.random.default_rng(0).choice(2**40, size=n, replace=False) + 1
    ids = [int(number) for number in numbers]
    lost = {int(x) for x in np.random.default_rng(99).choice(ids, size=round(options.drop * n), replace=False)}
    record = Round(d, ids, np.random.default_rng(7).integers(50, 1000, n), lost, CLOCKS[options.clock], options.trace)
    watch = Stopwatch(record.clock)
    for name, label in (("combine_shares", "shamir"), ("pseudo_rand_gen", "prg"), ("generate_shared_key", "ecdh")):
        watch.watch(server_code, name, label)
    for name in ("parameters_multiply", "quantize"):
        watch.watch(client_code, name, "quantise")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.trace:
        tracemalloc.start()
    started = time.perf_counter()
    shares = 1.0 if options.shares == "full" else int(options.shares)
    server, strategy, state, ok = conduct(record, shares, options.tfrac)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: dict[str, Any] = {
        "system": f"flower-{metadata.version('flwr')}",
        "n": n,
        "d": d,
        "shares_incl_self": n if options.shares == "full" else shares,
        "threshold": state.threshold,
        "drop": options.drop,
        "n_drop": len(lost),
        "ok": bool(ok),
        "clock": options.clock,
        "wall_s": wall,
        "rss_peak_mb": after / 1024,
        "rss_growth_mb": (after - before) / 1024,
    }
    result |= stage_figures(record, server, watch)
    if options.trace:
        result |= {"client_mask_peak_mb": (record.mask_peak or 0) / MIB, "server_peak_mb": record.server_peak / MIB}
    if record.errors:
        result |= {"client_errors": record.errors[:3], "n_client_errors": len(record.errors)}
    if ok and strategy.mean is not None:
        result |= correctness(record, strategy)
    return result


def stage_figures(record: Round, server: dict[str, float], watch: Stopwatch) -> dict[str, Any]:
    """Seconds and bytes by stage, and the parts of the unmask stage."""
    figures: dict[str, Any] = {}
    for stage, short in STAGES.items():
        if stage in record.seconds:
            figures[f"client_{short}_s"] = float(np.mean(record.seconds[stage]))
            figures[f"up_bytes_{stage}"] = int(np.mean(record.up[stage]))
            figures[f"down_bytes_{stage}"] = int(np.mean(record.down[stage]))
    figures["client_total_s"] = sum(v for k, v in figures.items() if k.startswith("client_"))
    figures["client_quantise_s"] = watch.seconds["quantise"] / max(1, len(record.seconds["collect_masked_vectors"]))
    figures["up_bytes_total"] = sum(v for k, v in figures.items() if k.startswith("up_bytes_"))
    figures |= {f"server_{stage}_s": seconds for stage, seconds in server.items()}
    split = {label: watch.seconds[label] for label in ("shamir", "prg", "ecdh")}
    split["arith_rest"] = server.get("unmask", 0.0) - sum(split.values())
    return figures | {"server_unmask_split": split}


def correctness(record: Round, strategy: Everybody) -> dict[str, Any]:
    """The error of the weighted mean, and what the server saw of single clients."""
    alive = [i for i, node in enumerate(record.ids) if node not in record.lost]
    exact = sum(float(record.weights[i]) * update_of(i, record.d).astype(np.float64) for i in alive)
    error = np.abs(strategy.mean - exact / float(record.weights[alive].sum()))
    own = {(record.ids[i], int(record.weights[i])) for i in alive}
    return {
        "max_abs_err": float(error.max()),
        "rms_err": float(np.sqrt((error**2).mean())),
        "server_saw_individual_weights": own == {(node, examples) for node, examples, _ in strategy.seen},
        "server_saw_individual_metrics": all(metrics for _, _, metrics in strategy.seen),
    }


def main() -> None:
    """Measure one configuration and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10, help="clients")
    parser.add_argument("--d", type=int, default=100_000, help="coordinates")
    parser.add_argument("--shares", default="full", help="full, or an odd number of neighbours including oneself")
    parser.add_argument("--drop", type=float, default=0.0, help="share of the clients lost in the masking stage")
    parser.add_argument("--tfrac", type=float, default=0.5, help="threshold as a share of --shares")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu", help="cpu is steadier on a busy machine")
    parser.add_argument("--trace", action="store_true", help="measure memory instead of time")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    with suppress(ImportError):  # some versions read the process's identity from here when a message is made
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    sys.stdout.write(json.dumps(measure(options)) + "\n")


if __name__ == "__main__":
    main()
