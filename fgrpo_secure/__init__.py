"""Privacy-hardened secure aggregation for federated GRPO: the training system.

`from fgrpo_secure import Federation` is the way in from Python; see `fgrpo_secure.run.api`. In the code begin with
`client/round.py` and `server/round.py`: one page each, one line per stage.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgrpo_secure.run.api import Callbacks, Federation, Result

__version__ = "0.1.0"
__all__ = ["Callbacks", "Federation", "Result"]


def __getattr__(name: str) -> Any:
    """What is in `__all__`, when it is first asked for: the command line and a verifier need none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'fgrpo_secure' has no attribute {name!r}")
    from fgrpo_secure.run import api

    return getattr(api, name)
