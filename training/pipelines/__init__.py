"""Diffusers pipelines: loading, the hub, model families, samplers, and what a call costs."""
