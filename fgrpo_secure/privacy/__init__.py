"""Differential privacy: from an update to noised integers, and what they cost. No configuration, no files, no torch.

The stages, each with its own type: `clip` (Update -> ClippedUpdate), `encode` (-> EncodedVector), `noise`
(-> NoisedVector). `accounting` turns noise into (epsilon, delta).
"""
