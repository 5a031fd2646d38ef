"""A server of several processes: workers listen and conduct sessions, a coordinator keeps the books and the model."""
