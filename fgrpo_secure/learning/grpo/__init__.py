"""Group relative policy optimisation: rollouts, rewards, advantages, objective and the local update.

Rollouts, rewards and objective do not know each other; `local_update` is where they meet.
"""
