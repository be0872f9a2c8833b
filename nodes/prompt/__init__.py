from . import caption, ella, ella_t5, wildcards

NODES = [*ella.NODES, *ella_t5.NODES, *caption.NODES, *wildcards.NODES]
