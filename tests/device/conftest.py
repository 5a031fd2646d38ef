"""The same tests on the processor, always, and on an accelerator where there is one.

On the processor they compare it with itself: that tells nothing of devices, and keeps the tests fit to run.
"""

import pytest
import torch

ACCELERATOR = [
    pytest.mark.device,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator here"),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ACCELERATOR)])
def device(request):
    return request.param


@pytest.fixture(params=[pytest.param("cuda", marks=ACCELERATOR)])
def accelerator(request):
    """For what can only be seen there."""
    return request.param
