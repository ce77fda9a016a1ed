"""Where hooks under test are found; its place is `vae_compat.front.subjects`."""

from vae_compat.front.subjects import load_subject, subject_folders

__all__ = ["load_subject", "subject_folders"]
