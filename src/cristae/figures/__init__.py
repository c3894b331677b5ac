"""Pictures: arrays in, picture out. All drawing of the project is in this folder.

Nothing here reads a file or a volume; the only library state used is that of the figure being
drawn, so pictures can be made in several threads.
"""
