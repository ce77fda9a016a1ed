"""Without a GPU there is nothing to test here, and that is no success."""

import pytest
import torch


def pytest_configure() -> None:
    if not torch.cuda.is_available():
        pytest.exit("no CUDA device was found here: these tests need one", returncode=2)
