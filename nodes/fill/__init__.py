from . import fill_without_model, lama

NODES = [*lama.NODES, *fill_without_model.NODES]
