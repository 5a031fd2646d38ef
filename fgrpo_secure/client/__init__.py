"""One data owner as a party: what it stores, what it accepts, how it trains and what leaves it."""
