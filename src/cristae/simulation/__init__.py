"""Simulated neuropil: what is in it (config, tissue), where (scene), how it looks (render)."""
