from . import demofusion, iterative_mixing, tiled_vae, windows

NODES = [*windows.NODES, *iterative_mixing.NODES, *demofusion.NODES, *tiled_vae.NODES]
