"""The engine: what is done, who does it, and block by block."""
