"""Simulated neuropil: what is in it (config, tissue), where it is (scene), how it looks (render)."""
