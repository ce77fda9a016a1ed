"""Its place is `vae_compat.front.explain`."""

from vae_compat.front.explain import check_docs, explain, parse_case

__all__ = ["check_docs", "explain", "parse_case"]
