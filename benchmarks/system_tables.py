"""Tables of what the system costs, from the result files of its benchmarks: one function a block of a page."""

import json
from statistics import median

import record


def whole() -> str:
    """One run of the whole system: the product's own words for what the simulated ones stand for."""
    run = json.loads((record.RESULTS / "whole_run.json").read_text())
    said = run["summary"]
    before, after = ([said[f"pass_rate.{kind}{when}"] for kind in ("", "greedy_")] for when in ("initial", "final"))
    return (
        f"One whole run, with protocol, ledgers and processes (seed {run['seed']}, its own evaluation): sampled "
        f"{before[0]:.1%} to {after[0]:.1%}, greedy {before[1]:.1%} to {after[1]:.1%}, epsilon "
        f"{said['privacy.epsilon_spent']:.2f} spent; {run['processor_seconds']:.0f} s of processor time at a load of "
        f"{run['load']:g} on two cores."
    )


def network_round() -> str:
    """What HTTPS adds to a round, from the training deadline on."""
    line = json.loads((record.RESULTS / "network_round.jsonl").read_text().splitlines()[-1])
    rows, added = [], line["over_s"]["each"]
    for name in ("embedded", "https"):
        seconds, worked = line["seconds"][name], line["cpu_s"][name]
        each = f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append((name, each, f"{median(worked):.2f} s"))
    over = f"**{line['over_s']['median']:.2f} s** ({min(added):.2f} to {max(added):.2f})"
    more = median(line["cpu_s"]["https"]) - median(line["cpu_s"]["embedded"])
    rows.append(("HTTPS over embedded, round by round", over, f"{more:.2f} s"))
    load = " to ".join(f"{each:g}" for each in line["load"])
    head = "A round of 5 clients from the training deadline to its publication", "waited", "processor, all processes"
    return f"{record.table(head, rows)}\n\n{len(added)} rounds, in turns on both, at a load of {load} on two cores."


def big_adapters() -> str:
    """What a round with a big adapter takes of each party beside training."""
    lines = [json.loads(line) for line in (record.RESULTS / "big_adapters.jsonl").read_text().splitlines()]
    rows = [
        (
            f"{line['coordinates'] / 1e6:.1f} million, {line['engine']}{', before' * (line.get('code') == 'before')}",
            f"{line['waited_s']:.1f} s",
            f"{line['cpu_s']:.1f} s",
            f"{line['server']['peak']} MiB ({line['server']['vectors']:.1f})",
            f"{line['client']['peak']} MiB ({line['client']['vectors']:.1f})",
            f"{line['load'][0]:.0f} to {line['load'][1]:.0f}",
        )
        for line in lines
    ]
    head = ("coordinates", "waited", "processor, all processes", "server's peak", "a client's peak", "load")
    return record.table(head, rows)


def trainers() -> str:
    """Whether the built-in loop and TRL's trainer learn the same."""
    import trainers as measured  # with a model, which nothing else here needs

    found = record.lines(measured.RESULT)
    text, _ = measured.said(found)
    return f"{text.replace(chr(10), '; ')} ({len(found) // len(measured.TRAINERS)} seeds)."


def beside_trl() -> str:
    """A step of the built-in loop beside one of TRL's trainer."""
    rows = []
    for line in record.lines(record.RESULTS / "beside_trl.jsonl"):
        shape = " x ".join(map(str, line["shape"]))
        ratios = (
            f"**{line['median']:.2f}** ({min(line['ratio']):.2f} to {max(line['ratio']):.2f}; {len(line['ratio'])})"
        )
        times = (f"{median(line[name]):.3g} s" for name in ("ours_s", "trl_s"))
        gemm = f"{line['of_gemm']:.0%} of {line['gemm']}" if line["gemm"] else "not measured"
        rows.append((f"{line['model']}, {line['dtype']}, {shape}", *times, ratios, gemm, f"{line['load']:.0f}"))
    head = (
        "model, prompts x completions x tokens",
        "ours",
        "TRL",
        "times as fast (pairs)",
        "of the matrix rate",
        "load",
    )
    return record.table(head, rows)
