"""What every test runs under: one thread per process, no model hub, no deadline for a property."""

import os

from hypothesis import HealthCheck, settings

# Before torch or transformers is imported by any test; worker processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("tests"), max_examples=20)  # `make quick`
settings.load_profile("tests")
