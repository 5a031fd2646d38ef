"""Privacy-hardened secure aggregation for federated GRPO: the training system.

Start with `client_round.py` and `server_round.py`: one page each, one line per stage.
"""

__version__ = "0.1.0"
