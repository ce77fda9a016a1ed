"""What a run ran on, where its numbers depend on it. Imports nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CudaDescription:
    """A GPU with its software and the switches of a run."""

    name: str
    memory: int
    """Bytes."""
    capability: str
    """Compute capability, such as ``9.0``."""
    driver: str
    """Its version, or the newest CUDA that it knows; empty where it cannot be asked."""
    cuda: str
    cudnn: str
    torch: str
    """Version with its build, as in ``2.13.0+cu130``."""
    allocator: str
    """Back end and settings of PyTorch's allocator."""
    switches: tuple[tuple[str, str], ...]
    """TF32, cuDNN and attention, and whether algorithms are deterministic."""

    @property
    def facts(self) -> dict[str, str]:
        """What bytes and FLOPs depend on, by its usual name."""
        return {
            "GPU": self.name,
            "PyTorch's build": self.torch,
            "CUDA": self.cuda,
            "cuDNN": self.cudnn,
            "allocator": self.allocator,
            **dict(self.switches),
        }
