"""Client-level differential privacy: from an update to noised integers, and the record of its cost.

The stages, each with its own type: `clip` (Update -> ClippedUpdate), `encode` (-> EncodedVector), `noise`
(-> NoisedVector). `accounting` turns noise into (epsilon, delta), `ledger` keeps what was spent and
refuses, and `planner` says beforehand what a configuration costs and whether it can learn.
"""
