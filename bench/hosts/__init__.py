"""Hosts: the diffusion models that strategies decode, one file per family."""
